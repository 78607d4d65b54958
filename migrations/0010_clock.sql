-- Steps of the database's clock, so that a daemon that starts anew knows which heartbeats were stamped before one.

create table defib.clock_steps (
    id              bigint generated always as identity primary key,
    noticed_at      timestamptz not null default clock_timestamp(),
    comparable_from timestamptz not null,
    noticed_by      text not null
);
comment on table defib.clock_steps is 'Each step of the database''s clock by two seconds or more that a daemon has noticed. Kept for a week.';
comment on column defib.clock_steps.id is 'Any number: the order of writing.';
comment on column defib.clock_steps.noticed_at is 'When it was noticed, by the clock as it was after the step.';
comment on column defib.clock_steps.comparable_from is 'Stamps up to this may be from before the step, and prove nothing about a container that was started since.';
comment on column defib.clock_steps.noticed_by is 'The replica that noticed it. Each replica writes a row of its own.';
