-- The job record and its lease, one atomic step a call, by the clock of the Redis server.
--
-- KEYS[1] is the prefix of all keys, ARGV[1] the operation, the rest its arguments (times in milliseconds).
--   <prefix>job:<id>            hash: the record
--   <prefix>job:<id>:events     stream: what happened, newest 10,000 or so
--   <prefix>due                 zset: when a job that is not final is to be looked at again
--   <prefix>index:<state>:<kind>  zsets for lists, '*' is any; the score is the order of creation
--   <prefix>idempotency:<hash>  string: digest of the request, and the job it made
-- An answer begins with 'ok', 'missing', 'lost', 'conflict', 'final', 'nothing', 'granted' or 'spent'.

local prefix = KEYS[1]
local MOST_EVENTS = 10000
local FINAL = { succeeded = true, failed = true, cancelled = true }

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function whole(number) return string.format('%.0f', number) end
local function record_key(id) return prefix .. 'job:' .. id end
local function index_key(state, kind) return prefix .. 'index:' .. state .. ':' .. kind end
local function due_at(id, at) redis.call('ZADD', prefix .. 'due', whole(at), id) end

local function load(id)
  local found = redis.call('HMGET', record_key(id), 'state', 'kind', 'sequence', 'epoch', 'attempts',
    'until', 'cancel', 'reason', 'resends')
  if not found[1] then return nil end
  return {
    id = id, state = found[1], kind = found[2], sequence = found[3], epoch = tonumber(found[4]),
    attempts = tonumber(found[5]), lease_until = tonumber(found[6]), cancel = found[7] == '1',
    reason = found[8] or '', resends = tonumber(found[9]),
  }
end

local function set(job, ...) redis.call('HSET', record_key(job.id), ...) end

local function event(job, kind, data)
  redis.call('XADD', record_key(job.id) .. ':events', 'MAXLEN', '~', MOST_EVENTS, '*', 'kind', kind, 'data', data)
end

-- `more` is JSON of further fields of the event, each with a comma before it.
local function move(job, state, more)
  redis.call('ZREM', index_key(job.state, '*'), job.id)
  redis.call('ZREM', index_key(job.state, job.kind), job.id)
  redis.call('ZADD', index_key(state, '*'), job.sequence, job.id)
  redis.call('ZADD', index_key(state, job.kind), job.sequence, job.id)
  job.state = state
  set(job, 'state', state)
  event(job, 'state', string.format('{"state":"%s","epoch":%d,"attempts":%d%s}',
    state, job.epoch, job.attempts, more or ''))
end

-- `field` is 'result', 'failure' or '', `value` its JSON. After a cancel every end is 'cancelled'.
local function finish(job, state, field, value)
  if job.cancel then state, field = 'cancelled', '' end
  local more = ''
  if field ~= '' then
    set(job, field, value)
    more = ',"' .. field .. '":' .. value
  end
  set(job, 'finished', whole(now), 'until', '0')
  redis.call('ZREM', prefix .. 'due', job.id)
  move(job, state, more)
end

local function held(job, epoch)
  return job.state == 'running' and job.epoch == tonumber(epoch)
end

local operations = {}

function operations.submit(id, kind, spec, idempotency, digest, keep, wait)
  if idempotency ~= '' then
    local key = prefix .. 'idempotency:' .. idempotency
    local before = redis.call('GET', key)
    if before then
      local digest_before, id_before = string.match(before, '^(%S+) (%S+)$')
      if digest_before ~= digest then return { 'conflict' } end
      -- Our own id: the first try arrived and only its answer was lost.
      return { 'ok', id_before == id and 1 or 0, id_before, redis.call('HGETALL', record_key(id_before)) }
    end
    redis.call('SET', key, digest .. ' ' .. id, 'PX', keep)
  end
  if redis.call('EXISTS', record_key(id)) == 0 then
    local sequence = whole(redis.call('INCR', prefix .. 'sequence'))
    local job = { id = id, state = 'queued', kind = kind, sequence = sequence, epoch = 0, attempts = 0 }
    set(job, 'kind', kind, 'sequence', sequence, 'spec', spec, 'created', whole(now), 'epoch', '0',
      'attempts', '0', 'until', '0', 'cancel', '0', 'resends', '0')
    redis.call('ZADD', index_key('*', '*'), sequence, id)
    redis.call('ZADD', index_key('*', kind), sequence, id)
    due_at(id, now + tonumber(wait))
    move(job, 'queued')
  end
  return { 'ok', 1, id, redis.call('HGETALL', record_key(id)) }
end

function operations.get(id)
  local record = redis.call('HGETALL', record_key(id))
  if #record == 0 then return { 'missing' } end
  return { 'ok', record }
end

function operations.events(id, after, limit)
  if redis.call('EXISTS', record_key(id)) == 0 then return { 'missing' } end
  return { 'ok', redis.call('XRANGE', record_key(id) .. ':events', after, '+', 'COUNT', limit) }
end

function operations.list(state, kind, below, limit)
  local ids = redis.call('ZREVRANGEBYSCORE', index_key(state, kind), below, '-inf', 'LIMIT', 0, limit)
  local page = { 'ok' }
  for _, id in ipairs(ids) do
    page[#page + 1] = id
    page[#page + 1] = redis.call('HGETALL', record_key(id))
  end
  return page
end

-- `failure` is the JSON to fail the job with where its attempts are spent; '' asks for the facts first.
function operations.acquire(id, lease, most, failure)
  local job = load(id)
  if not job then return { 'missing' } end
  if FINAL[job.state] then return { 'nothing' } end
  if job.state == 'running' then
    if job.lease_until > now then return { 'nothing' } end
    job.reason = 'its worker was not heard of before the lease ran out'
  end
  if job.cancel then
    finish(job, 'cancelled', '')
    return { 'nothing' }
  end
  if job.attempts >= tonumber(most) then
    if failure == '' then return { 'spent', job.attempts, job.reason } end
    finish(job, 'failed', 'failure', failure)
    return { 'nothing' }
  end
  job.epoch = job.epoch + 1
  job.attempts = job.attempts + 1
  local lease_until = now + tonumber(lease)
  set(job, 'epoch', job.epoch, 'attempts', job.attempts, 'until', whole(lease_until), 'resends', '0')
  redis.call('HSETNX', record_key(id), 'started', whole(now))
  due_at(id, lease_until)
  move(job, 'running')
  return { 'granted', job.epoch, job.attempts, redis.call('HGET', record_key(id), 'spec') }
end

function operations.renew(id, epoch, lease)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  local lease_until = now + tonumber(lease)
  set(job, 'until', whole(lease_until))
  due_at(id, lease_until)
  return { 'ok', job.cancel and 1 or 0 }
end

function operations.look(id, epoch)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  return { 'ok', job.cancel and 1 or 0 }
end

function operations.progress(id, epoch, progress)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  set(job, 'progress', progress)
  event(job, 'progress', progress)
  return { 'ok' }
end

function operations.note(id, epoch, note)
  local job = load(id)
  if not job then return { 'missing' } end
  if not held(job, epoch) then return { 'lost' } end
  event(job, 'note', note)
  return { 'ok' }
end

function operations.finish(id, epoch, state, field, value)
  local job = load(id)
  if not job then return { 'missing' } end
  -- Ended by the same holder: the first try arrived and only its answer was lost.
  if FINAL[job.state] and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  finish(job, state, field, value)
  return { 'ok', job.state }
end

function operations.release(id, epoch, died, reason, wait)
  local job = load(id)
  if not job then return { 'missing' } end
  if job.state == 'queued' and job.epoch == tonumber(epoch) then return { 'ok', job.state } end
  if not held(job, epoch) then return { 'lost' } end
  if job.cancel then
    finish(job, 'cancelled', '')
    return { 'ok', job.state }
  end
  if died == '1' then
    set(job, 'reason', reason)
  else
    job.attempts = job.attempts - 1
  end
  set(job, 'attempts', job.attempts, 'until', '0', 'resends', '0')
  due_at(id, now + tonumber(wait))
  move(job, 'queued')
  return { 'ok', job.state }
end

function operations.cancel(id)
  local job = load(id)
  if not job then return { 'missing' } end
  if job.state == 'succeeded' or job.state == 'failed' then return { 'final', job.state } end
  if not job.cancel and not FINAL[job.state] then
    job.cancel = true
    set(job, 'cancel', '1')
    if job.state == 'running' and job.lease_until > now then
      move(job, 'running', ',"cancel_requested":true')
    else
      finish(job, 'cancelled', '')
    end
  end
  return { 'ok', redis.call('HGETALL', record_key(id)) }
end

function operations.claim(limit, wait, longest)
  local claimed = { 'ok' }
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', whole(now), 'LIMIT', 0, limit)) do
    local job = load(id)
    if not job or FINAL[job.state] then
      redis.call('ZREM', prefix .. 'due', id)
    else
      due_at(id, now + math.min(tonumber(wait) * 2 ^ job.resends, tonumber(longest)))
      set(job, 'resends', job.resends + 1)
      claimed[#claimed + 1] = id
    end
  end
  return claimed
end

return operations[ARGV[1]](unpack(ARGV, 2))
