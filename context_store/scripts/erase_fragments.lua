-- Erases fragments' content, their counts and the summaries that cover them.
-- KEYS: meta, log, void, counts, summaries, summary bodies.
-- ARGV: version to come, version expected, window base or '', epoch, fragments, then for each fragment: sequence, size
--   that it has in its segment; then the names of the summaries.
-- Returns {'ERASED', version}, {'BUSY', version, ms left}, {'LAPSED', version, turn}, {'STALE'}, {'COLD'} or {'MISSING'}.
local meta = KEYS[1]
local m = redis.call('HMGET', meta, 'version', 'cold', 'open_turn', 'lease_until_ms')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if m[3] ~= '0' then
  local now = redis.call('TIME')
  local left = tonumber(m[4]) - (now[1] * 1000 + math.floor(now[2] / 1000))
  if left > 0 then return {'BUSY', m[1], left} end
  return {'LAPSED', m[1], tonumber(m[3])}
end
if m[1] ~= ARGV[2] then return {'STALE'} end
local names = 6 + 2 * ARGV[5]
for i = 6, names - 1, 2 do
  redis.call('XDEL', KEYS[2], ARGV[i] .. '-0')
  redis.call('SADD', KEYS[3], 'f' .. ARGV[i] .. ':' .. ARGV[i + 1])
  redis.call('HDEL', KEYS[4], ARGV[i])
end
for i = names, #ARGV do
  redis.call('HDEL', KEYS[5], ARGV[i])
  redis.call('HDEL', KEYS[6], ARGV[i])
end
if ARGV[3] ~= '' then redis.call('HSET', meta, 'window', ARGV[3], 'epoch', ARGV[4]) end
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version, 'void_at', ARGV[1], 'summaries_at', ARGV[1])
return {'ERASED', version}
