-- Keeps what a new plan of the open turn's window rests on: exact counts, the scale of estimates, perhaps an epoch.
-- KEYS: meta, turns, counts.
-- ARGV: version to come, version expected, turn, attempt, incarnation, tokenizer, scale, window base or '', epoch, then
--   for each count: sequence, value.
-- Returns {'PLANNED', version}, {'STALE'}, {'COLD'}, {'MISSING'}, or {'REFUSED', Turn proto or '', attempt} as commit_turn
-- does.
local meta, turns, counts = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'open_attempt', 'incarnation')
if not m[1] or m[5] ~= ARGV[5] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if m[3] ~= ARGV[3] then return {'REFUSED', redis.call('HGET', turns, ARGV[3]) or '', 0} end
if m[4] ~= ARGV[4] then return {'REFUSED', redis.call('HGET', turns, ARGV[3]) or '', tonumber(m[4])} end
if m[1] ~= ARGV[2] then return {'STALE'} end
for i = 10, #ARGV, 2 do redis.call('HSET', counts, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', meta, 'scale', ARGV[7])
if ARGV[6] ~= '' then redis.call('HSET', meta, 'tokenizer', ARGV[6]) end
if ARGV[8] ~= '' then redis.call('HSET', meta, 'window', ARGV[8], 'epoch', ARGV[9]) end
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version)
if #ARGV > 9 then redis.call('HSET', meta, 'counts_at', ARGV[1]) end
return {'PLANNED', version}
