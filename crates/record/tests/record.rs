//! The recorder, from outside: what is written is read again and replayed, whatever happens to the process and to the disk.
#![expect(clippy::expect_used, reason = "tests")]

mod record {
    mod changes;
    mod disk;
    mod fleet;
    mod replay;
}
