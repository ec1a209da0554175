-- Finds the turn of a request_id, or appends its messages and opens it.
-- KEYS: meta, log, turns, requests.
-- ARGV: version to come, version expected, request_id, digest (16 bytes), driver, lease in ms, number that the latest
--   done turn must have or '', number of the new turn, Turn proto, window base or '' for the same epoch, epoch, '1'
--   to open or '0' to only look, number of the turn that is taken over whatever its lease, or '', then for each
--   fragment: header, body, size.
-- Returns {outcome, version, ...}:
--   AGAIN | TAKEN_OVER, version, incarnation, turn, attempt     the caller drives a turn that was there
--   ATTACHED, version, incarnation, turn, attempt, ms left      another driver does
--   FINISHED, version, incarnation, turn                        it is closed
--   BUSY, version, ms left | LAPSED, version, turn  another turn is open, with or without a live lease
--   NOT_LATEST, version, number of the latest done turn
--   OPENED, version | NEW | STALE | REUSED | COLD | MISSING
local meta, log, turns, requests = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'open_attempt', 'open_driver', 'lease_until_ms',
  'done_turn', 'revision', 'incarnation')
local version, open_turn = m[1], m[3]
if not version then return {'MISSING'} end
if m[2] then return {'COLD'} end
local left = (tonumber(m[6]) or 0) - now

local known = redis.call('HGET', requests, ARGV[3])
if known then
  local state, number = string.sub(known, 17, 17), string.sub(known, 18)
  -- A turn that was imported does not say what it was asked.
  local digest = string.sub(known, 1, 16)
  if digest ~= ARGV[4] and digest ~= string.rep('\0', 16) or state == 'A' then return {'REUSED'} end
  local turn = redis.call('HGET', turns, number)
  -- What is answered is acknowledged: a write moves the connection on to where WAIT has to wait for.
  redis.call('HSET', meta, 'seen', ARGV[1])
  if state == 'D' or state == 'C' then return {'FINISHED', version, m[9], turn} end
  if state == 'O' then
    local attempt = tonumber(m[4])
    if m[5] == ARGV[5] then
      redis.call('HSET', meta, 'lease_until_ms', now + ARGV[6])
      return {'AGAIN', version, m[9], turn, attempt}
    end
    if ARGV[13] == number then left = 0 end
    if left > 0 then return {'ATTACHED', version, m[9], turn, attempt, left} end
    redis.call('HSET', meta, 'open_attempt', attempt + 1, 'open_driver', ARGV[5], 'lease_until_ms', now + ARGV[6])
    return {'TAKEN_OVER', version, m[9], turn, attempt + 1}
  end
  -- It failed or expired: the request runs anew, as a new turn.
end

if ARGV[13] ~= '' then return {'NEW', version} end
if open_turn ~= '0' then
  if left > 0 then return {'BUSY', version, left} end
  return {'LAPSED', version, tonumber(open_turn)}
end
if ARGV[7] ~= '' and ARGV[7] ~= m[7] then return {'NOT_LATEST', version, tonumber(m[7])} end
if ARGV[12] == '0' then return {'NEW', version} end
if version ~= ARGV[2] then return {'STALE', version} end

local sequence = tonumber(m[8])
for i = 14, #ARGV, 3 do
  sequence = sequence + 1
  redis.call('XADD', log, string.format('%.0f-0', sequence), 'f', ARGV[i], 'b', ARGV[i + 1], 'n', ARGV[i + 2])
end
redis.call('HSET', turns, ARGV[8], ARGV[9])
redis.call('HSET', requests, ARGV[3], ARGV[4] .. 'O' .. ARGV[8])
version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(version, 1, 210)
redis.call('HSET', meta, 'revision', string.format('%.0f', sequence), 'turn_count', ARGV[8], 'open_turn', ARGV[8],
  'open_attempt', 1, 'open_driver', ARGV[5], 'open_request', ARGV[3], 'lease_until_ms', now + ARGV[6],
  'version', version, 'touched_ms', string.format('%.0f', now))
if ARGV[10] ~= '' then redis.call('HSET', meta, 'window', ARGV[10], 'epoch', ARGV[11]) end
return {'OPENED', version}
