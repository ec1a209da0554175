-- Adds vectors of a document's passages, or notes why there are none, if nothing was added meanwhile.
-- KEYS: meta, documents, vectors.
-- ARGV: version to come, document id, place expected, state of its vectors expected ('' for none), state to come, name
--   and value of the vectors or '' and '', then names of vectors that go.
-- Returns {'COMMITTED', version}, {'STALE'} where the document, or its vectors, are others than were read, {'COLD'} or
-- {'MISSING'}.
local meta, documents, vectors = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'version', 'cold')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local id = ARGV[2]
local place, state, gone = unpack(redis.call('HMGET', documents, id .. ':place', id .. ':vectors', id .. ':gone'))
if place ~= ARGV[3] or (state or '') ~= ARGV[4] or gone == 'deleting' then return {'STALE'} end
for i = 8, #ARGV do redis.call('HDEL', vectors, ARGV[i]) end
if ARGV[6] ~= '' then redis.call('HSET', vectors, ARGV[6], ARGV[7]) end
redis.call('HSET', documents, id .. ':vectors', ARGV[5])
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version)
return {'COMMITTED', version}
