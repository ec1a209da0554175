-- Takes from a fork the past that it shares with an ancestor that is erased.
-- KEYS: meta, summaries, summary bodies.
-- ARGV: version to come, version expected, links that are left, own (Session proto), its etag, window base, epoch, then
--   the names of the fork's own summaries of that past.
-- Returns {'CUT', version}, {'STALE'}, {'COLD'} or {'MISSING'}.
local meta = KEYS[1]
local m = redis.call('HMGET', meta, 'version', 'cold')
if not m[1] then return {'MISSING'} end
if m[2] then return {'COLD'} end
if m[1] ~= ARGV[2] then return {'STALE'} end
for i = 8, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
  redis.call('HDEL', KEYS[3], ARGV[i])
end
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', meta, 'version', version, 'links', ARGV[3], 'own', ARGV[4], 'etag', ARGV[5], 'window', ARGV[6],
  'epoch', ARGV[7], 'void_at', ARGV[1], 'counts_at', ARGV[1], 'summaries_at', ARGV[1])
return {'CUT', version}
