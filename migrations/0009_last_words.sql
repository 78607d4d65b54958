-- The last words of a container that was restarted: how it had ended, and the end of its log.

create table defib.last_words (
    attempt_id  bigint primary key references defib.restarts (id) on delete cascade,
    exit_code   bigint,
    oom_killed  boolean not null default false,
    finished_at timestamptz,
    log         text constraint last_words_log_check check (octet_length(log) <= 16384),
    log_fault   text,
    taken_at    timestamptz not null default clock_timestamp()
);
comment on table defib.last_words is 'How a container had ended before an attempt restarted it, and the end of its log. Kept for as long as the attempt.';
comment on column defib.last_words.attempt_id is 'The attempt.';
comment on column defib.last_words.exit_code is 'Exit code of its main process; null: it had not ended, or the engine did not tell.';
comment on column defib.last_words.oom_killed is 'The kernel killed it for memory, as far as the engine noticed.';
comment on column defib.last_words.finished_at is 'When it ended, by the engine''s clock.';
comment on column defib.last_words.log is 'The last lines that it wrote (DEFIB_CAPTURE_LOG_LINES), at most 16 KiB, control characters spelled out; null: not known.';
comment on column defib.last_words.log_fault is 'Why the log is not known, or not all of it.';
comment on column defib.last_words.taken_at is 'When this was written down.';
