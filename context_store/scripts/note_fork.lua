-- Notes a fork with a session whose past it shares, before the fork is made.
-- KEYS: meta, forks.
-- ARGV: version to come, incarnation that the session must have, version expected or '', field, value.
-- Returns {'NOTED', version}, {'STALE'} or {'MISSING'}.
local m = redis.call('HMGET', KEYS[1], 'version', 'incarnation')
if not m[1] or m[2] ~= ARGV[2] then return {'MISSING'} end
if ARGV[3] ~= '' and ARGV[3] ~= m[1] then return {'STALE'} end
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
-- A new version, so that whoever erases something and has looked at the forks before looks again.
local version = ARGV[1] .. string.format('%06d', redis.call('TIME')[2]) .. string.sub(m[1], 1, 210)
redis.call('HSET', KEYS[1], 'version', version)
return {'NOTED', version}
