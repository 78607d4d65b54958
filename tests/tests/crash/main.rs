//! The crash matrix: the daemon dies at every step of a restart, alone or beside another replica, and the dead workspace is still
//! restarted exactly once.
//!
//! The program that dies is the same one with fail points in it (`make build-tests`). Each row of the matrix is a test of its own, so
//! that they run side by side.

mod matrix;
mod moved;
mod platform;
mod soak;
