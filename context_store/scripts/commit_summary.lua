-- Adds a summary once, and exact counts.
-- KEYS: meta, counts, summaries, summary bodies.
-- ARGV: version to come, version expected, name, header, body, then for each count: sequence, value.
-- Returns {'CREATED', version}, {'EXISTS'}, {'STALE'} or {'MISSING'}.
local meta, counts, summaries, bodies = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local version = redis.call('HGET', meta, 'version')
if not version then return {'MISSING'} end
if redis.call('HEXISTS', summaries, ARGV[3]) == 1 then return {'EXISTS'} end
if version ~= ARGV[2] then return {'STALE'} end
for i = 6, #ARGV, 2 do redis.call('HSET', counts, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', summaries, ARGV[3], ARGV[4])
redis.call('HSET', bodies, ARGV[3], ARGV[5])
redis.call('HSET', meta, 'version', ARGV[1], 'summaries_at', ARGV[1])
-- A count's value begins with the digest of its tokenizer, which is the session's from now on.
if #ARGV > 5 then redis.call('HSET', meta, 'counts_at', ARGV[1], 'tokenizer', string.sub(ARGV[7], 1, 16)) end
return {'CREATED', ARGV[1]}
