//! The store on a real Postgres: one private server for this process, a database for each test.

mod adapter;
mod claim;
mod fixture;
mod fleet;
mod ledger;
mod listen;
mod migrate;
mod pooler;
mod privileges;
mod retention;
mod suspicion;
mod timeouts;
mod tls;
mod verdict;
mod view;
