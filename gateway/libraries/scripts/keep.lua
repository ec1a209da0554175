-- Lets all that is kept of a library's files live so long, or without an end.
-- KEYS: every one.  ARGV: ms, 0 for no end.
for _, key in ipairs(KEYS) do
  if ARGV[1] == '0' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ARGV[1]) end
end
return 1
