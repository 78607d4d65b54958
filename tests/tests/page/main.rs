//! The status page and `/api/v1`, from outside: on a made-up fleet (`sql/page.sql`), on real containers, and in a real browser.

mod api;
mod browser;
mod driver;
mod pages;
mod pictures;
mod world;
