-- Takes away what is left of a hidden document: its id is free.
-- KEYS: meta, documents, vectors.
-- ARGV: version to come, document id, place expected, '1' where an ancestor has it and it stays deleted here, then the
--   names of its vectors.
-- Returns {'DROPPED', version}, {'STALE'} where it is not there so any more, {'COLD'} or {'MISSING'}.
local meta, documents, vectors = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'version', 'cold')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local id = ARGV[2]
local place, gone = unpack(redis.call('HMGET', documents, id .. ':place', id .. ':gone'))
if (place or '') ~= ARGV[3] or gone ~= 'deleting' then return {'STALE'} end
redis.call('HDEL', documents, id, id .. ':place', id .. ':own', id .. ':vectors', id .. ':gone')
if ARGV[4] == '1' then redis.call('HSET', documents, id .. ':gone', 'deleted') end
for i = 5, #ARGV do redis.call('HDEL', vectors, ARGV[i]) end
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version)
return {'DROPPED', version}
