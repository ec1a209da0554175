-- Reads a page of one of a session's keys, as long as the session is in one state. Changes nothing.
-- KEYS: meta, key.  ARGV: version, 'hash', 'set' or 'stream', cursor ('' to begin), bytes after which the page ends.
-- Returns {cursor or '' at the end, flat list}: field and value, or member, or id, header, body and size of an entry;
-- some fields and members may come twice. {'STALE'} when the session is in another state or gone.
local m = redis.call('HMGET', KEYS[1], 'version', 'cold')
if m[1] ~= ARGV[1] or m[2] then return {'STALE'} end
local key, kind, cursor, flat, size = KEYS[2], ARGV[2], ARGV[3], {}, 0
local function take(value)
  flat[#flat + 1] = value
  size = size + #value
end
repeat
  if kind == 'stream' then
    local entries = redis.call('XRANGE', key, cursor == '' and '-' or '(' .. cursor, '+', 'COUNT', 16)
    cursor = #entries == 16 and entries[16][1] or ''
    for _, entry in ipairs(entries) do
      -- Every entry is written as f, b, n, in this order.
      take(entry[1])
      take(entry[2][2])
      take(entry[2][4])
      take(entry[2][6])
    end
  else
    local page = redis.call(kind == 'set' and 'SSCAN' or 'HSCAN', key, cursor == '' and '0' or cursor, 'COUNT', 16)
    cursor = page[1] == '0' and '' or page[1]
    for _, value in ipairs(page[2]) do take(value) end
  end
until cursor == '' or size >= tonumber(ARGV[4])
return {cursor, flat}
