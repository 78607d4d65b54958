-- By how much the database's clock is ahead, so that a daemon also notices a step that the clock made while no daemon ran. And two comments
-- of earlier migrations that nobody could follow.

alter table defib.clock_steps add column ahead interval, alter column comparable_from drop not null;
comment on table defib.clock_steps is
    'Each step of the database''s clock by two seconds or more that a daemon has noticed, and how far the clock was ahead when a daemon first looked. What is older than a week is deleted when a row is added.';
comment on column defib.clock_steps.comparable_from is
    'Stamps up to this may be from before the step, and prove nothing about a container that was started since. Null: there was no step, and the row only tells by how much the clock is ahead.';
comment on column defib.clock_steps.ahead is
    'By how much the database''s clock was ahead of the clock of the daemon''s host when the row was written. A daemon that starts compares it with what it finds. Null in rows of earlier versions.';

comment on column defib.verdicts.verdict is
    'One of the verdicts that docs/verdicts.md explains, but never alive: whoever is alive has no row here.';
comment on index defib.orders_one_restart_at_a_time is
    'A workspace has one order to restart it at a time. Whoever orders another while it stands is given the number of the standing one.';
