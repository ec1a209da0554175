-- Lets nobody see a document any more whose text is about to be erased.
-- KEYS: meta, documents.  ARGV: version to come, document id, place expected.
-- Returns {'HIDDEN', version}, {'STALE'} where the document is another than was read, {'BUSY', version, ms left} while a
-- turn is open, {'LAPSED', version, turn}, {'COLD'} or {'MISSING'}.
local meta, documents = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'lease_until_ms')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local now = redis.call('TIME')
now = {now[1] * 1000 + math.floor(now[2] / 1000), now[2]}
if m[3] ~= '0' then
  local left = tonumber(m[4]) - now[1]
  if left > 0 then return {'BUSY', m[1], left} end
  return {'LAPSED', m[1], tonumber(m[3])}
end
if (redis.call('HGET', documents, ARGV[2] .. ':place') or '') ~= ARGV[3] then return {'STALE'} end
redis.call('HSET', documents, ARGV[2] .. ':gone', 'deleting')
local version = ARGV[1] .. string.format('%06d', now[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version, 'touched_ms', string.format('%.0f', now[1]))
return {'HIDDEN', version}
