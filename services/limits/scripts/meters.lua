-- The meters of one tenant, and of a user and an address of it: filled, corrected, kept and read together.
-- KEYS: the ticket, then for each caller its meters (a hash) and its turns (ticket -> end of its lease, in µs).
-- ARGV: 'take', 'settle', 'renew' or 'look'; the ticket's id, '' for a request that holds nothing; lease in ms;
--   requests, tokens and micros of money (to take, or as they turned out); then for each caller, the tenant first:
--   requests and tokens per minute, concurrent turns, budget of the month in micros; -1 is no limit.
-- 'take' takes of all callers or of none. A ticket that is there has taken, one that is gone has settled: to send a
-- call again changes nothing. Levels are in millionths of a request or token; see `meter.py`.
-- Returns {1 if taken, now in µs, then for each caller: limits in the way (1 requests, 2 tokens, 4 turns, 8 budget),
-- level of requests, level of tokens, turns, end of the first lease, micros spent this month}.
local MICROS, MONTH_MS = 1000000, 32 * 86400000
local op, ticket, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local requests, tokens, micros = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = clock[1] * MICROS + clock[2]

local function whole(number) return string.format('%.0f', number) end

-- The calendar month by UTC: civil_from_days of https://howardhinnant.github.io/date_algorithms.html.
local function month_of(seconds)
  local days = math.floor(seconds / 86400) + 719468
  local era = math.floor(days / 146097)
  local doe = days - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return string.format('%04d-%02d', yoe + era * 400 + (month <= 2 and 1 or 0), month)
end
local month = month_of(tonumber(clock[1]))

local function level_of(stored, passed_us, limit)
  if limit < 0 then return 0 end
  return math.max(0, tonumber(stored or 0) - math.floor(passed_us * limit / 60))
end

local function fits(level, amount, limit)
  return limit < 0 or amount == 0 or level + math.min(amount, limit) * MICROS <= limit * MICROS
end

local function read(index)
  local at = 6 + (index - 1) * 4
  local one = {
    meters = KEYS[2 * index], turns = KEYS[2 * index + 1], rpm = tonumber(ARGV[at + 1]), tpm = tonumber(ARGV[at + 2]),
    concurrent = tonumber(ARGV[at + 3]), budget = tonumber(ARGV[at + 4]), running = 0, first_end = 0, refused = 0,
  }
  local stored = redis.call('HMGET', one.meters, 'at', 'requests', 'tokens', 'month', 'micros')
  local passed_us = math.max(0, now - tonumber(stored[1] or now))
  one.requests = level_of(stored[2], passed_us, one.rpm)
  one.tokens = level_of(stored[3], passed_us, one.tpm)
  one.micros = stored[4] == month and tonumber(stored[5]) or 0
  -- A tenant's money is told, whether or not it has a bound.
  one.counts_money = one.budget >= 0 or index == 1
  if one.concurrent >= 0 then
    redis.call('ZREMRANGEBYSCORE', one.turns, '-inf', whole(now))
    one.running = redis.call('ZCARD', one.turns)
    one.first_end = tonumber(redis.call('ZRANGE', one.turns, 0, 0, 'WITHSCORES')[2] or 0)
  end
  return one
end

local function judge(one)
  if not fits(one.requests, requests, one.rpm) then one.refused = one.refused + 1 end
  if not fits(one.tokens, tokens, one.tpm) then one.refused = one.refused + 2 end
  if ticket ~= '' and one.concurrent >= 0 and one.running >= one.concurrent then one.refused = one.refused + 4 end
  if micros > 0 and one.budget >= 0 and one.micros + micros > one.budget then one.refused = one.refused + 8 end
end

local function store(one)
  redis.call('HSET', one.meters, 'at', whole(now), 'requests', whole(one.requests), 'tokens', whole(one.tokens),
    'month', month, 'micros', whole(one.micros))
  -- Until it would be empty, and as long as money has to be remembered.
  local empty_us = math.max(one.rpm > 0 and one.requests * 60 / one.rpm or 0,
    one.tpm > 0 and one.tokens * 60 / one.tpm or 0)
  local kept_ms = one.micros > 0 and MONTH_MS or 0
  redis.call('PEXPIRE', one.meters, whole(math.max(kept_ms, math.ceil(empty_us / 1000) + 60000)))
end

local function hold(one)
  if one.concurrent < 0 then return end
  redis.call('ZADD', one.turns, whole(now + lease_ms * 1000), ticket)
  redis.call('PEXPIRE', one.turns, whole(lease_ms + 1000))
end

local callers, is_refused = {}, false
for index = 1, (#KEYS - 1) / 2 do
  callers[index] = read(index)
end
local held = ticket ~= '' and redis.call('HMGET', KEYS[1], 'tokens', 'micros', 'month') or {}

if op == 'take' and not held[1] then
  for _, one in ipairs(callers) do
    judge(one)
    is_refused = is_refused or one.refused > 0
  end
  if not is_refused then
    for _, one in ipairs(callers) do
      one.requests = one.rpm >= 0 and one.requests + requests * MICROS or 0
      one.tokens = one.tpm >= 0 and one.tokens + tokens * MICROS or 0
      one.micros = one.counts_money and one.micros + micros or 0
      store(one)
      if ticket ~= '' then
        hold(one)
        one.running = one.concurrent >= 0 and one.running + 1 or 0
      end
    end
    if ticket ~= '' then
      redis.call('HSET', KEYS[1], 'tokens', whole(tokens), 'micros', whole(micros), 'month', month)
      redis.call('PEXPIRE', KEYS[1], whole(lease_ms))
    end
  end
elseif op == 'settle' and held[1] then
  redis.call('DEL', KEYS[1])
  local more_micros = micros - tonumber(held[2])
  -- What was taken in a month that is over is not given back to this one.
  if held[3] ~= month then more_micros = math.max(0, more_micros) end
  for _, one in ipairs(callers) do
    if one.tpm >= 0 then one.tokens = math.max(0, one.tokens + (tokens - tonumber(held[1])) * MICROS) end
    if one.counts_money then one.micros = math.max(0, one.micros + more_micros) end
    store(one)
    if one.concurrent >= 0 then one.running = one.running - redis.call('ZREM', one.turns, ticket) end
  end
elseif op == 'renew' then
  redis.call('PEXPIRE', KEYS[1], whole(lease_ms))
  for _, one in ipairs(callers) do hold(one) end
end

local answer = {is_refused and 0 or 1, now}
for _, one in ipairs(callers) do
  for _, value in ipairs({one.refused, one.requests, one.tokens, one.running, one.first_end, one.micros}) do
    answer[#answer + 1] = value
  end
end
return answer
