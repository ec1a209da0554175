-- Keeps a dead event; the oldest beyond the bound give way.  KEYS: dead.  ARGV: event, count max.
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
return 1
