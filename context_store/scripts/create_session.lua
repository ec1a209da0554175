-- Creates a session once. The version is random to the call: a call that finds it there has lost an answer, no race.
-- KEYS: meta.
-- ARGV: version to come, own (Session proto), etag, then further fields of meta and their values, in place of those of
--   an empty session.
-- Returns {'CREATED', version}, {'EXISTS'}, or {'HIDDEN', incarnation, '1' or '0'} for a session that is being erased or
-- imported.
local meta = KEYS[1]
local m = redis.call('HMGET', meta, 'incarnation', 'version', 'erasing')
if m[1] then
  if not m[2] then return {'HIDDEN', m[1], m[3] and '1' or '0'} end
  if m[1] == ARGV[1] then
    redis.call('HSET', meta, 'seen', ARGV[1])
    return {'CREATED', m[2]}
  end
  return {'EXISTS'}
end
local now = redis.call('TIME')
redis.call('HSET', meta, 'own', ARGV[2], 'etag', ARGV[3], 'version', ARGV[1], 'incarnation', ARGV[1],
  'revision', 0, 'turn_count', 0, 'done_turn', 0, 'done_input', 0, 'open_turn', 0, 'epoch', 1,
  'touched_ms', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
for i = 4, #ARGV, 2 do redis.call('HSET', meta, ARGV[i], ARGV[i + 1]) end
return {'CREATED', ARGV[1]}
