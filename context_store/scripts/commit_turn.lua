-- Appends the reply of the open turn and closes it as done.
-- KEYS: meta, log, turns, requests, counts, output.
-- ARGV: version to come, version expected, turn, attempt, incarnation, Turn proto, last input sequence, tokenizer,
--   number of counts, then for each count: sequence, value; then for each fragment: header, body, size.
-- Returns {'DONE', version}, {'STALE'}, {'COLD'}, {'MISSING'}, or {'REFUSED', Turn proto or '', attempt} when the turn is not
-- open in this attempt; attempt is 0 for a closed turn.
local meta, log, turns, requests, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'open_attempt', 'open_request', 'revision',
  'incarnation')
if not m[1] or m[7] ~= ARGV[5] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if m[3] ~= ARGV[3] or m[4] ~= ARGV[4] then
  -- What is answered may be an acknowledgement: a write moves the connection on to where WAIT has to wait for.
  redis.call('HSET', meta, 'seen', ARGV[1])
  return {'REFUSED', redis.call('HGET', turns, ARGV[3]) or '', m[3] == ARGV[3] and tonumber(m[4]) or 0}
end
if m[1] ~= ARGV[2] then return {'STALE'} end

local sequence = tonumber(m[6])
local first_fragment = 10 + 2 * ARGV[9]
for i = first_fragment, #ARGV, 3 do
  sequence = sequence + 1
  redis.call('XADD', log, string.format('%.0f-0', sequence), 'f', ARGV[i], 'b', ARGV[i + 1], 'n', ARGV[i + 2])
end
for i = 10, first_fragment - 1, 2 do redis.call('HSET', counts, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', turns, ARGV[3], ARGV[6])
redis.call('UNLINK', KEYS[6])
local known = redis.call('HGET', requests, m[5])
redis.call('HSET', requests, m[5], string.sub(known, 1, 16) .. 'D' .. ARGV[3])
local now = redis.call('TIME')
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'revision', string.format('%.0f', sequence), 'open_turn', 0, 'done_turn', ARGV[3],
  'done_input', ARGV[7], 'lease_until_ms', 0, 'version', version,
  'touched_ms', string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
if ARGV[8] ~= '' then redis.call('HSET', meta, 'tokenizer', ARGV[8]) end
if ARGV[9] ~= '0' then redis.call('HSET', meta, 'counts_at', ARGV[1]) end
return {'DONE', version}
