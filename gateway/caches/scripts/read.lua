-- What has changed in a scope since a version, in pages.
-- KEYS entries, changes, state, wrong; ARGV born, version, how many at most.
-- Returns {born, version, begins anew, told wrong, {id, entry or '', …}}.
local born = redis.call('HGET', KEYS[3], 'born') or '0'
local version = tonumber(redis.call('HGET', KEYS[3], 'version') or '0')
local floor = tonumber(redis.call('HGET', KEYS[3], 'floor') or '0')
local since, anew = tonumber(ARGV[2]), 0
if born ~= ARGV[1] or (since < floor and since > 0) then
  since, anew = 0, 1
end
if since >= version then
  return {born, version, anew, {}, {}}
end
local found = {}
local read = since
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for at = 1, #ids, 2 do
  found[#found + 1] = ids[at]
  found[#found + 1] = redis.call('HGET', KEYS[1], ids[at]) or ''
  read = tonumber(ids[at + 1])
end
if #ids < 2 * tonumber(ARGV[3]) then
  read = version
end
return {born, read, anew, redis.call('ZRANGE', KEYS[4], 0, -1), found}
