-- Changes records of API keys together, if all are as their caller read them, or as he wants them already.
-- KEYS[1] the hash of records; ARGV[1] how many it may hold; then for each: id, JSON before, JSON after ('' is none).
-- Returns 'done', 'moved' or 'full'. What a retry finds done is written again, so that its confirmation covers it.
local count = redis.call('HLEN', KEYS[1])
for index = 2, #ARGV, 3 do
  local id, before, after = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local now = redis.call('HGET', KEYS[1], id) or ''
  if now ~= before and now ~= after then
    return 'moved'
  end
  count = count + (after == '' and 0 or 1) - (now == '' and 0 or 1)
end
if count > tonumber(ARGV[1]) and count > redis.call('HLEN', KEYS[1]) then
  return 'full'
end
for index = 2, #ARGV, 3 do
  if ARGV[index + 2] == '' then
    redis.call('HDEL', KEYS[1], ARGV[index])
  else
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 2])
  end
end
return 'done'
