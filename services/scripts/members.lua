-- Reads the members of several rooms, and the clock that their heartbeats were stamped with.
-- KEYS the rooms' members. Answers {seconds, microseconds, fields and values of each room's hash in the order of KEYS}.
local answer = redis.call('TIME')
for index, key in ipairs(KEYS) do
  answer[index + 2] = redis.call('HGETALL', key)
end
return answer
