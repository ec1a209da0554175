-- Appends messages outside a turn, once a request_id.
-- KEYS: meta, log, requests.
-- ARGV: version to come, request_id, digest (16 bytes), then for each fragment: header, body, size.
-- Returns {'APPENDED', version, version before, first sequence, last sequence, incarnation}, the same with 'AGAIN' for a
-- request that was carried out before, {'BUSY', version, ms left}, {'LAPSED', version, turn}, {'REUSED'}, {'COLD'} or {'MISSING'}.
local meta, log, requests = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'lease_until_ms', 'revision', 'incarnation')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local known = redis.call('HGET', requests, ARGV[2])
if known then
  local first, last = string.match(string.sub(known, 17), '^A(%d+)-(%d+)$')
  if string.sub(known, 1, 16) ~= ARGV[3] or not first then return {'REUSED'} end
  -- What is answered is acknowledged: a write moves the connection on to where WAIT has to wait for.
  redis.call('HSET', meta, 'seen', ARGV[1])
  return {'AGAIN', m[1], m[1], tonumber(first), tonumber(last), m[6]}
end
if m[3] ~= '0' then
  local left = tonumber(m[4]) - now
  if left > 0 then return {'BUSY', m[1], left} end
  return {'LAPSED', m[1], tonumber(m[3])}
end
local first = tonumber(m[5]) + 1
local sequence = first - 1
for i = 4, #ARGV, 3 do
  sequence = sequence + 1
  redis.call('XADD', log, string.format('%.0f-0', sequence), 'f', ARGV[i], 'b', ARGV[i + 1], 'n', ARGV[i + 2])
end
redis.call('HSET', requests, ARGV[2], ARGV[3] .. string.format('A%.0f-%.0f', first, sequence))
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'revision', string.format('%.0f', sequence), 'version', version,
  'touched_ms', string.format('%.0f', now))
return {'APPENDED', version, m[1], first, sequence, m[6]}
