-- Creates a session once. The version is random to the call: a call that finds it there has lost an answer, no race.
-- KEYS: meta.  ARGV: version to come, own (Session proto), etag.
-- Returns {'CREATED', version} or {'EXISTS'}.
local meta = KEYS[1]
local incarnation = redis.call('HGET', meta, 'incarnation')
if incarnation then
  if incarnation == ARGV[1] then return {'CREATED', ARGV[1]} end
  return {'EXISTS'}
end
redis.call('HSET', meta, 'own', ARGV[2], 'etag', ARGV[3], 'version', ARGV[1], 'incarnation', ARGV[1],
  'revision', 0, 'turn_count', 0, 'done_turn', 0, 'done_input', 0, 'open_turn', 0, 'epoch', 1)
return {'CREATED', ARGV[1]}
