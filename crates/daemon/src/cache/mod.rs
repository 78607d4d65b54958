//! The platform's cache in Redis: which keys belong to a workspace, and how they are deleted.
//!
//! The problem: a platform remembers in Redis where a workspace is reached and that it lives. While a dead workspace boots, such
//! keys send its callers to an address that nobody answers at; and where one of them expires meanwhile, some platforms take the boot
//! for a death and begin it anew. So the keys are deleted before the restart is asked for. When that happens, and what follows when Redis
//! is away, is the business of the module `eviction`.
//!
//! Nothing here imports another module of this crate, so that the configuration can check addresses and patterns.

mod address;
mod pattern;
mod redis;

use async_trait::async_trait;

pub(crate) use self::address::Address;
pub(crate) use self::pattern::Pattern;
pub(crate) use self::redis::RedisCache;

/// Somewhere to delete keys.
#[async_trait]
pub(crate) trait Keys: Send + Sync {
    /// Deletes all of these that there are.
    ///
    /// # Errors
    /// Why not all of them are surely gone, in a sentence without secrets. Some may be.
    async fn delete(&self, keys: &[String]) -> Result<(), String>;
}
