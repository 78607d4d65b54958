-- What defib thinks, for people and proxies: the current verdicts, and how they came about.

create table defib.verdicts (
    workspace_id text primary key,
    verdict      text not null,
    since        timestamptz not null default now(),
    engine       text not null,
    rule         text not null,
    because      text not null,
    evidence     jsonb not null default '{}',
    held         text,
    updated_at   timestamptz not null default now()
) with (fillfactor = 85);
comment on table defib.verdicts is 'Current verdicts that are not alive. What a proxy may read to answer "restarting".';
comment on column defib.verdicts.workspace_id is 'About whom.';
comment on column defib.verdicts.verdict is 'suspect, dead, silent, wedged, ... (DESIGN.md, section 4.4).';
comment on column defib.verdicts.since is 'Since when.';
comment on column defib.verdicts.engine is 'Where.';
comment on column defib.verdicts.rule is 'The rule that gave it.';
comment on column defib.verdicts.because is 'The rule''s reasons in a sentence.';
comment on column defib.verdicts.evidence is 'What it rests on.';
comment on column defib.verdicts.held is 'Why a restart is being held back; null: it is not.';
comment on column defib.verdicts.updated_at is 'When this row was last written.';

create table defib.events (
    id           bigint generated always as identity primary key,
    workspace_id text not null,
    at           timestamptz not null default now(),
    verdict_from text,
    verdict_to   text not null,
    evidence     jsonb not null default '{}'
);
comment on table defib.events is 'Changes of verdicts, for defib explain.';
comment on column defib.events.id is 'In the order of writing.';
comment on column defib.events.workspace_id is 'About whom.';
comment on column defib.events.at is 'When.';
comment on column defib.events.verdict_from is 'What it was; null: not known.';
comment on column defib.events.verdict_to is 'What it is.';
comment on column defib.events.evidence is 'What the change rests on.';

create index events_of on defib.events (workspace_id, id);
comment on index defib.events_of is 'For defib explain.';
