-- Sets a tenant's own limits, and tells the gateways by another version.
-- KEYS: limits by tenant (a hash), their version. ARGV: how many tenants there may be, tenant, JSON before ('' is none), JSON
--   after ('' is none).
-- Returns 'done', 'moved' or 'full'. What a retry finds done is written again, so that its confirmation covers it.
local now = redis.call('HGET', KEYS[1], ARGV[2]) or ''
if now ~= ARGV[3] and now ~= ARGV[4] then return 'moved' end
if now == '' and ARGV[4] ~= '' and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 'full' end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
end
redis.call('INCR', KEYS[2])
return 'done'
