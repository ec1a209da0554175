-- Adds a summary once, and exact counts.
-- KEYS: meta, counts, summaries, summary bodies.
-- ARGV: version to come, version expected, name, header, body, then for each count: sequence, value.
-- Returns {'CREATED', version}, {'EXISTS'}, {'STALE'}, {'COLD'} or {'MISSING'}.
local meta, counts, summaries, bodies = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local m = redis.call('HMGET', meta, 'version', 'cold')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if redis.call('HEXISTS', summaries, ARGV[3]) == 1 then return {'EXISTS'} end
if m[1] ~= ARGV[2] then return {'STALE'} end
for i = 6, #ARGV, 2 do redis.call('HSET', counts, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', summaries, ARGV[3], ARGV[4])
redis.call('HSET', bodies, ARGV[3], ARGV[5])
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version, 'summaries_at', ARGV[1])
-- A count's value begins with the digest of its tokenizer, which is the session's from now on.
if #ARGV > 5 then redis.call('HSET', meta, 'counts_at', ARGV[1], 'tokenizer', string.sub(ARGV[7], 1, 16)) end
return {'CREATED', version}
