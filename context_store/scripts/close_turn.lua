-- Closes the open turn without a reply: its messages are void from now on.
-- KEYS: meta, turns, requests, void, output.
-- ARGV: version to come, turn, attempt or '0' for any, incarnation, letter of the new state, Turn proto, '1' if its
--   lease must have lapsed.
-- Returns {'CLOSED', version, version before}, {'BUSY', ms left}, {'COLD'}, {'MISSING'}, or {'REFUSED', Turn proto or '',
-- attempt} when the turn is not open in this attempt; attempt is 0 for a closed turn.
local meta, turns, requests, void = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'open_attempt', 'open_request', 'lease_until_ms',
  'incarnation')
if not m[1] or m[7] ~= ARGV[4] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if m[3] == '0' or m[3] ~= ARGV[2] or (ARGV[3] ~= '0' and ARGV[3] ~= m[4]) then
  -- What is answered may be an acknowledgement: a write moves the connection on to where WAIT has to wait for.
  redis.call('HSET', meta, 'seen', ARGV[1])
  return {'REFUSED', redis.call('HGET', turns, ARGV[2]) or '', m[3] == ARGV[2] and tonumber(m[4]) or 0}
end
if ARGV[7] == '1' then
  local now = redis.call('TIME')
  local left = tonumber(m[6]) - (now[1] * 1000 + math.floor(now[2] / 1000))
  if left > 0 then return {'BUSY', left} end
end
redis.call('HSET', turns, ARGV[2], ARGV[6])
redis.call('UNLINK', KEYS[5])
redis.call('SADD', void, 't' .. ARGV[2])
local known = redis.call('HGET', requests, m[5])
redis.call('HSET', requests, m[5], string.sub(known, 1, 16) .. ARGV[5] .. ARGV[2])
redis.call('HSET', meta, 'open_turn', 0, 'lease_until_ms', 0)
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version, 'void_at', ARGV[1])
return {'CLOSED', version, m[1]}
