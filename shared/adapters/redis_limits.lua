-- How much keys of the API have asked for, all processes together, by the clock of the Redis server.
--
-- KEYS[1] is the prefix of all keys, ARGV[1] names the process that asks, ARGV[2] for how long in milliseconds a
-- process counts as one that shares; then seven for each key of the API, empty where it has no such limit:
--   id, tokens a second, most tokens, tokens spent, requests a day, the day that is meant, spent on that day
--   <prefix>limit:<id>       hash: tokens as of `at` (milliseconds), and what was `used` on `day`
--   <prefix>limit:<id>:by    zset: processes, by when they asked last
--   <prefix>limit:<id>:held  hash: what each of these was granted of the day, and may have used
-- The answer begins with the time in seconds; then four for each key: tokens, processes that share, used today,
-- granted of today. Tokens may be negative: what was admitted without asking here is paid back first.

local DAY = 86400

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + tonumber(clock[2]) / 1000
local today = math.floor(tonumber(clock[1]) / DAY)
local who, counts_ms = ARGV[1], tonumber(ARGV[2])

local answer = { string.format('%.6f', now / 1000) }

for first = 3, #ARGV, 7 do
  local id, rate, most, spent, per_day, day, spent_today = unpack(ARGV, first, first + 6)
  local key = KEYS[1] .. 'limit:' .. id
  local kept = redis.call('HMGET', key, 'tokens', 'at', 'day', 'used')
  local keep_s = 0

  local tokens = 0
  if rate ~= '' then
    rate, most = tonumber(rate), tonumber(most)
    tokens = most
    if kept[1] then
      -- The server's clock may be set back.
      local passed_s = math.max(0, now - tonumber(kept[2])) / 1000
      tokens = math.min(most, tonumber(kept[1]) + passed_s * rate)
    end
    tokens = tokens - tonumber(spent)
    redis.call('HSET', key, 'tokens', string.format('%.6f', tokens), 'at', string.format('%.3f', now))
    keep_s = (most - tokens) / rate
  end

  local by, held = key .. ':by', key .. ':held'
  redis.call('ZADD', by, string.format('%.0f', now), who)
  redis.call('ZREMRANGEBYSCORE', by, '-inf', string.format('(%.0f', now - counts_ms))
  local sharing = redis.call('ZRANGE', by, 0, -1)

  local used, granted = 0, 0
  if per_day ~= '' then
    if kept[3] and tonumber(kept[3]) == today then
      used = tonumber(kept[4])
    else
      redis.call('DEL', held)
    end
    if tonumber(day) == today then used = used + tonumber(spent_today) end
    redis.call('HSET', key, 'day', today, 'used', string.format('%.0f', used))
    keep_s = math.max(keep_s, DAY)
    local rest = tonumber(per_day) - used
    for place, of in ipairs(redis.call('HMGET', held, unpack(sharing))) do
      if of and sharing[place] ~= who then rest = rest - tonumber(of) end
    end
    -- Something is left for whoever comes next, as long as there are several.
    if rest >= 1 then granted = math.max(1, math.floor(rest / (#sharing + 1))) end
    redis.call('HSET', held, who, granted)
    redis.call('PEXPIRE', held, string.format('%.0f', counts_ms))
  end

  -- Forgotten once it is as if it had never been: the bucket full, the day over.
  redis.call('PEXPIRE', key, string.format('%.0f', math.min(keep_s + 60, 1e9) * 1000))
  redis.call('PEXPIRE', by, string.format('%.0f', counts_ms))

  answer[#answer + 1] = string.format('%.6f', tokens)
  answer[#answer + 1] = tostring(#sharing)
  answer[#answer + 1] = string.format('%.0f', used)
  answer[#answer + 1] = string.format('%.0f', granted)
end

return answer
