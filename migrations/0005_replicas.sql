-- Replicas that are alive, so that engines can be spread over them; and the moment at which a restart could no longer be taken
-- back, so that whoever takes over knows what its predecessor may still be doing.

create table defib.replicas (
    replica    text primary key,
    engines    text[] not null,
    fit        text[] not null,
    started_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null
) with (fillfactor = 50);
comment on table defib.replicas is 'Daemons that watch this fleet. Engines are spread over those that have not expired.';
comment on column defib.replicas.replica is 'DEFIB_REPLICA_ID.';
comment on column defib.replicas.engines is 'The engines it is configured for.';
comment on column defib.replicas.fit is
    'Those of them that it can act on: it reaches them, and does not only observe (DEFIB_MODE). Where somebody is fit, nobody else owns.';
comment on column defib.replicas.started_at is 'When it was first seen.';
comment on column defib.replicas.expires_at is 'After this it counts as gone; it says again that it lives each third of DEFIB_LEASE_TTL.';

alter table defib.restarts add column acting_at timestamptz;
comment on column defib.restarts.acting_at is
    'When its owner, lease checked, turned to the engine; null: the engine has not been asked, and an owner with an older epoch never will.';
