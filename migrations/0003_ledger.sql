-- The ledger: every restart that was claimed, who may claim (leases), and what stands against it (holds).

create table defib.restarts (
    id              bigint generated always as identity primary key,
    workspace_id    text not null,
    engine          text not null,
    container_id    text,
    started_at      timestamptz,
    attempt         integer not null constraint restarts_attempt_check check (attempt > 0),
    epoch           bigint not null default 0,
    verdict         text not null,
    evidence        jsonb not null default '{}',
    claimed_by      text,
    claimed_at      timestamptz not null default now(),
    deadline_at     timestamptz not null default now() + interval '5 minutes',
    finished_at     timestamptz,
    outcome         text constraint restarts_outcome_check
                    check (outcome in ('succeeded', 'failed', 'superseded', 'vetoed', 'abandoned')),
    error           text,
    recovered_at    timestamptz,
    acknowledged_at timestamptz,
    run_ended_at    timestamptz,
    constraint restarts_finished_check check ((finished_at is null) = (outcome is null))
);
comment on table defib.restarts is 'The ledger: one row for each restart that was claimed. The unique indexes are what makes a restart happen once.';
comment on column defib.restarts.id is 'The attempt''s id.';
comment on column defib.restarts.workspace_id is 'Whose restart.';
comment on column defib.restarts.engine is 'Where.';
comment on column defib.restarts.container_id is 'The container that was found dead; null: missing, never seen.';
comment on column defib.restarts.started_at is 'Start of that incarnation, by the engine''s clock.';
comment on column defib.restarts.attempt is 'Number within the run of attempts that no verified recovery has ended, from 1.';
comment on column defib.restarts.epoch is 'The lease''s epoch at the claim: fences off an owner that was replaced.';
comment on column defib.restarts.verdict is 'The verdict that asked for it.';
comment on column defib.restarts.evidence is 'What the verdict rests on.';
comment on column defib.restarts.claimed_by is 'The replica that claimed it.';
comment on column defib.restarts.claimed_at is 'When it was claimed.';
comment on column defib.restarts.deadline_at is 'Still unfinished after this, its owner is gone and another replica settles it.';
comment on column defib.restarts.finished_at is 'When it ended; null: it is under way.';
comment on column defib.restarts.outcome is 'succeeded (the engine did it: not yet a recovery), failed, superseded or vetoed (nothing was touched), abandoned.';
comment on column defib.restarts.error is 'What went wrong.';
comment on column defib.restarts.recovered_at is 'When a heartbeat proved the recovery.';
comment on column defib.restarts.acknowledged_at is 'When an operator said that it no longer counts (defib ack).';
comment on column defib.restarts.run_ended_at is 'When a recovery or an operator ended the run that it belongs to: its number may come again. Set at once for what touched nothing.';

create unique index restarts_one_at_a_time on defib.restarts (workspace_id) where finished_at is null;
comment on index defib.restarts_one_at_a_time is 'One attempt under way per workspace.';
create unique index restarts_one_per_incarnation
    on defib.restarts (workspace_id, coalesce(container_id, ''), coalesce(started_at, '-infinity'), attempt)
    where run_ended_at is null and (outcome is null or outcome not in ('superseded', 'vetoed'));
comment on index defib.restarts_one_per_incarnation is 'Of several that judged the same death, one restarts it.';
create index restarts_of on defib.restarts (workspace_id, id desc);
comment on index defib.restarts_of is 'For defib explain, and the back-off of one workspace.';
create index restarts_run_ended_at on defib.restarts (run_ended_at);
comment on index defib.restarts_run_ended_at is 'The runs that still matter: not ended (null), or lately.';
create index restarts_finished_at on defib.restarts (finished_at);
comment on index defib.restarts_finished_at is 'For retention.';

create table defib.leases (
    engine     text primary key,
    holder     text not null,
    epoch      bigint not null default 0,
    expires_at timestamptz not null
);
comment on table defib.leases is 'Which replica owns an engine: only the owner restarts. Rows and the database''s clock, because session locks do not survive a pooler.';
comment on column defib.leases.engine is 'A name from DEFIB_ENGINES.';
comment on column defib.leases.holder is 'The replica (DEFIB_REPLICA_ID).';
comment on column defib.leases.epoch is 'Grows with each change of the holder.';
comment on column defib.leases.expires_at is 'After this it is anybody''s.';

create table defib.holds (
    id          bigint generated always as identity primary key,
    scope       text not null constraint holds_scope_check check (scope in ('fleet', 'engine', 'workspace')),
    target      text,
    owner       text not null,
    reason      text not null,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz,
    released_at timestamptz,
    constraint holds_target_check check ((scope = 'fleet') = (target is null))
);
comment on table defib.holds is 'An operator''s word that nothing in this scope is restarted for now.';
comment on column defib.holds.id is 'The hold.';
comment on column defib.holds.scope is 'fleet, engine or workspace.';
comment on column defib.holds.target is 'Which engine or workspace; null for the fleet.';
comment on column defib.holds.owner is 'Who asked for it.';
comment on column defib.holds.reason is 'Why.';
comment on column defib.holds.created_at is 'Since when.';
comment on column defib.holds.expires_at is 'When it ends by itself; null: when it is released.';
comment on column defib.holds.released_at is 'When it was released; null: not yet.';

create index holds_standing on defib.holds (scope, target) where released_at is null;
comment on index defib.holds_standing is 'Those that may stand.';

create function defib.hold_reason(of_workspace text, of_engine text) returns text
language sql stable
as $$
    select h.scope || ' held by ' || h.owner || ': ' || h.reason
      from defib.holds h
     where h.released_at is null and (h.expires_at is null or h.expires_at > now())
       and (h.scope = 'fleet' or (h.scope, h.target) in (('engine', of_engine), ('workspace', of_workspace)))
     order by h.id
     limit 1
$$;
comment on function defib.hold_reason(text, text) is 'Why this workspace on this engine may not be restarted now; null: it may.';
