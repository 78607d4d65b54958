-- The fleet in the pictures of docs/status-page.md: ten thousand workspaces on ten engines, of which one is dead. Two replicas share the
-- engines; the daemon that draws the page is a third, which owns none. The pictures are taken by the ignored test in
-- tests/page/pictures.rs.

insert into defib.replicas (replica, engines, fit, started_at, expires_at, mode, version, watched_statuses, heartbeats_usable, last_pass_at)
select replica, array(select 'e' || n from generate_series(1, 10) as n), array(select 'e' || n from generate_series(1, 10) as n), now() - up,
       now() + interval '1 day', 'enforce', '0.2.0', '{online,degraded,offline}', true, now() - interval '2 seconds'
  from (values ('defib-a', interval '9 days 2 hours'), ('defib-b', interval '6 days 19 hours')) as r(replica, up);

insert into defib.leases (engine, holder, epoch, expires_at)
select 'e' || n, case when n % 2 = 1 then 'defib-a' else 'defib-b' end, 3, now() + interval '1 day' from generate_series(1, 10) as n;

insert into defib.engines (engine, holder, answers, fault, asked_at, judged, storm, last_pass_at, good_until)
select 'e' || n, case when n % 2 = 1 then 'defib-a' else 'defib-b' end, true, null, now() - interval '2 seconds', 1000, null,
       now() - interval '2 seconds', now() + interval '1 day'
  from generate_series(1, 10) as n;

insert into defib.workspaces (id, name, status, engine, last_heartbeat_at, created_at)
select 'w' || n, 'Agent ' || n, 'online', 'e' || 1 + (n - 1) / 1000,
       now() - case n when 6417 then interval '80 seconds' when 8 then interval '95 seconds' else (n * 7 % 29) * interval '1 second' end,
       now() - interval '9 days'
  from generate_series(1, 10000) as n;

insert into defib.workspaces (id, name, status, engine, last_heartbeat_at, created_at) values
    ('w10001', 'Kept for the audit', 'stopped', 'e10', now() - interval '3 days', now() - interval '9 days');

insert into defib.verdicts (workspace_id, verdict, since, engine, rule, because, evidence, held, updated_at)
select w, verdict, now() - since, engine, rule, because,
       jsonb_build_object('because', because, 'rule', rule, 'would_change', 'a sample that finds it running', 'retry_in_seconds', 40,
                          'sample', jsonb_build_object('incarnation', jsonb_build_object('container_id', 'c0ffee0123456789abcd', 'started_at', '2026-11-24T10:00:00.000000Z'))),
       held, now() - interval '2 seconds'
  from (values ('w6417', 'e7', 'dead', interval '42 seconds', 'stopped_stale', 'container stopped (exit 137, out of memory), heartbeat stale for 80 s', 'backoff'),
               ('w8', 'e1', 'busy', interval '3 minutes', 'running_busy', 'no heartbeat for 95 s, but 2 active tasks', null),
               ('w3311', 'e4', 'settling', interval '4 seconds', 'new_incarnation', 'started 4 s ago', null)
       ) as v(w, engine, verdict, since, rule, because, held);

insert into defib.events (workspace_id, at, verdict_from, verdict_to, evidence)
select 'w6417', now() - before, verdict_from, verdict_to, jsonb_build_object('because', because, 'rule', rule, 'heartbeat', '{"age_seconds": 81.2, "window_seconds": 75}'::jsonb)
  from (values (interval '95 minutes', 'alive', 'suspect', 'container stopped (exit 137), seen once', 'stopped_once'),
               (interval '94 minutes 58.8 seconds', 'suspect', 'dead', 'container stopped (exit 137), seen twice 1.1 s apart', 'stopped_spaced'),
               (interval '94 minutes 58.1 seconds', 'dead', 'settling', 'started 0.1 s ago', 'new_incarnation'),
               (interval '94 minutes 51 seconds', 'settling', 'alive', 'heartbeat 0.4 s old', 'running_fresh'),
               (interval '44 seconds', 'alive', 'suspect', 'container stopped (exit 137, out of memory), seen once', 'stopped_once'),
               (interval '42 seconds', 'suspect', 'dead', 'container stopped (exit 137, out of memory), heartbeat stale for 80 s', 'stopped_stale')
       ) as e(before, verdict_from, verdict_to, because, rule);

-- What has ended. The attempts of w6417 are told in its timeline as well.
insert into defib.restarts (workspace_id, engine, container_id, started_at, attempt, epoch, verdict, evidence, claimed_by, claimed_at, finished_at, outcome, error, recovered_at, run_ended_at)
select w, engine, container, now() - interval '2 days', attempt, 3, verdict, jsonb_build_object('because', because), 'defib-a',
       now() - before, now() - before + took, outcome, error, now() - before + took + back, now() - before + took + back
  from (values
    ('w3311', 'e4', 'd00d', 1, 'dead', 'container stopped (exit 1), seen twice 1.1 s apart', interval '4.6 seconds', interval '420 milliseconds', 'succeeded', null, null::interval),
    ('w6417', 'e7', 'c0ffee0123456789abcd', 1, 'dead', 'container stopped (exit 137, out of memory), heartbeat stale for 80 s', interval '41.9 seconds', interval '3.9 seconds', 'failed', 'the engine has no space left on its device', null),
    ('w902', 'e1', 'beef', 1, 'dead', 'container stopped (exit 139), heartbeat stale for 76 s', interval '11 minutes', interval '380 milliseconds', 'succeeded', null, interval '6.2 seconds'),
    ('w7754', 'e8', 'f00d', 2, 'wedged', 'runs, no heartbeat for 16 min; 2 reporters cannot reach it', interval '38 minutes', interval '10.4 seconds', 'succeeded', null, interval '8.1 seconds'),
    ('w7754', 'e8', 'feed', 1, 'wedged', 'runs, no heartbeat for 15 min; 2 reporters cannot reach it', interval '61 minutes', interval '10.3 seconds', 'superseded', null, null),
    ('w6417', 'e7', 'c0ffee0123456789abcc', 1, 'dead', 'container stopped (exit 137), seen twice 1.1 s apart', interval '94 minutes 58.7 seconds', interval '520 milliseconds', 'succeeded', null, interval '7.2 seconds'),
    ('w4120', 'e5', 'cafe', 1, 'dead', 'container stopped (exit 1), heartbeat stale for 75 s', interval '3 hours 12 minutes', interval '410 milliseconds', 'succeeded', null, interval '5.5 seconds'),
    ('w2046', 'e3', 'babe', 1, 'dead', 'no container for 31 s, heartbeat stale for 106 s', interval '7 hours 40 minutes', interval '1.8 seconds', 'succeeded', null, interval '11.3 seconds'),
    ('w9310', 'e10', 'ace', 1, 'dead', 'container stopped (exit 143), heartbeat stale for 81 s', interval '19 hours', interval '390 milliseconds', 'succeeded', null, interval '6.4 seconds')
  ) as r(w, engine, container, attempt, verdict, because, before, took, outcome, error, back)
 order by before desc;

insert into defib.last_words (attempt_id, exit_code, oom_killed, finished_at, log)
select id, 137, true, now() - interval '45 seconds', E'loading the index of 48,112 documents\nallocating 6.0 GiB\nfatal: out of memory'
  from defib.restarts where workspace_id = 'w6417' and outcome = 'failed';

insert into defib.suspicions (workspace_id, reporter, reason, http_status, detail, reported_at, taken_at, taken_by, finding)
values ('w6417', 'proxy-1', 'refused', 502, 'connect: refused', now() - interval '44.2 seconds', now() - interval '44.19 seconds', 'defib-a', 'stopped, exit 137');

insert into defib.holds (scope, target, owner, reason, created_at, expires_at)
values ('engine', 'e2', 'ann', 'kernel upgrade', now() - interval '20 minutes', now() + interval '100 minutes'),
       ('workspace', 'w4120', 'bob', 'a customer copies the crash dump; ask in #agents before release', now() - interval '3 hours', null);
