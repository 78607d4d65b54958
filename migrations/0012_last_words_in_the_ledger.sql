-- What a container said before it died, in the ledger itself, and what its health check had said.

alter table defib.restarts add column last_words text
    constraint restarts_last_words_check check (octet_length(last_words) <= 16384);
comment on column defib.restarts.last_words is
    'What the container said before it died, for people: how it had ended, the last results of its health check, and the end of its log, at most 16 KiB. Its parts are in defib.last_words. Null: not known, or written by an earlier version.';

alter table defib.last_words add column health text
    constraint last_words_health_check check (octet_length(health) <= 4096);
comment on column defib.last_words.health is
    'The last results of its health check, each with its exit code and what it printed, at most 4 KiB, control characters spelled out; null: it has none, or they are not known.';
