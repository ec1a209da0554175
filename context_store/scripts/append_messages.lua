-- Appends messages outside a turn, once a request_id.
-- KEYS: meta, log, requests.
-- ARGV: version to come, request_id, digest (16 bytes), then for each fragment: header, body, size.
-- Returns {'APPENDED', version, version before, first sequence, last sequence}, the same with 'AGAIN' for a request
-- that was carried out before, {'BUSY', version, ms left}, {'LAPSED', version, turn}, {'REUSED'} or {'MISSING'}.
local meta, log, requests = KEYS[1], KEYS[2], KEYS[3]
local m = redis.call('HMGET', meta, 'version', 'open_turn', 'lease_until_ms', 'revision')
if not m[1] then return {'MISSING'} end
local known = redis.call('HGET', requests, ARGV[2])
if known then
  local first, last = string.match(string.sub(known, 17), '^A(%d+)-(%d+)$')
  if string.sub(known, 1, 16) ~= ARGV[3] or not first then return {'REUSED'} end
  return {'AGAIN', m[1], m[1], tonumber(first), tonumber(last)}
end
if m[2] ~= '0' then
  local now = redis.call('TIME')
  local left = tonumber(m[3]) - (now[1] * 1000 + math.floor(now[2] / 1000))
  if left > 0 then return {'BUSY', m[1], left} end
  return {'LAPSED', m[1], tonumber(m[2])}
end
local first = tonumber(m[4]) + 1
local sequence = first - 1
for i = 4, #ARGV, 3 do
  sequence = sequence + 1
  redis.call('XADD', log, string.format('%.0f-0', sequence), 'f', ARGV[i], 'b', ARGV[i + 1], 'n', ARGV[i + 2])
end
redis.call('HSET', requests, ARGV[2], ARGV[3] .. string.format('A%.0f-%.0f', first, sequence))
redis.call('HSET', meta, 'revision', string.format('%.0f', sequence))
redis.call('HSET', meta, 'version', ARGV[1])
return {'APPENDED', ARGV[1], m[1], first, sequence}
