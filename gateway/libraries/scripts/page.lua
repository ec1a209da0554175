-- A page of a library's files by the time they were attached, those of the same millisecond by name.
-- KEYS: records, all, view (all, or one state's).  ARGV: the file before the first (empty: none), count, 'asc' or 'desc'.
-- Returns {records}, or nothing where the file before is not there.
local at
if ARGV[1] ~= '' then
  at = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if not at then return false end
end
local is_desc = ARGV[3] == 'desc'
local names
if not at then
  names = redis.call(is_desc and 'ZREVRANGE' or 'ZRANGE', KEYS[3], 0, tonumber(ARGV[2]) - 1)
else
  names = {}
  local same = redis.call(is_desc and 'ZREVRANGEBYSCORE' or 'ZRANGEBYSCORE', KEYS[3], at, at)
  for _, name in ipairs(same) do
    local is_behind = (is_desc and name < ARGV[1]) or (not is_desc and name > ARGV[1])
    if is_behind and #names < tonumber(ARGV[2]) then names[#names + 1] = name end
  end
  local left = tonumber(ARGV[2]) - #names
  local more = {}
  if left > 0 and is_desc then
    more = redis.call('ZREVRANGEBYSCORE', KEYS[3], '(' .. at, '-inf', 'LIMIT', 0, left)
  elseif left > 0 then
    more = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. at, '+inf', 'LIMIT', 0, left)
  end
  for _, name in ipairs(more) do names[#names + 1] = name end
end
local found = {}
for _, name in ipairs(names) do found[#found + 1] = redis.call('HGET', KEYS[1], name) end
return found
