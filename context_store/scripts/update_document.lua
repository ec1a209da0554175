-- Replaces what a document's owner may change.
-- KEYS: meta, documents.
-- ARGV: version to come, document id, own expected ('' for none yet), place expected, own to come (Document proto).
-- Returns {'UPDATED', version}, {'STALE'} where the document is another than was read, {'COLD'} or {'MISSING'}.
local meta, documents = KEYS[1], KEYS[2]
local m = redis.call('HMGET', meta, 'version', 'cold')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local own, place, gone = unpack(redis.call('HMGET', documents, ARGV[2] .. ':own', ARGV[2] .. ':place', ARGV[2] .. ':gone'))
if (own or '') ~= ARGV[3] or (place or '') ~= ARGV[4] or gone == 'deleting' then return {'STALE'} end
redis.call('HSET', documents, ARGV[2] .. ':own', ARGV[5])
local now = redis.call('TIME')
local version = ARGV[1] .. string.format('%06d', now[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version, 'touched_ms', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
return {'UPDATED', version}
