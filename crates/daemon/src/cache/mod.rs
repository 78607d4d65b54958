//! The platform's cache in Redis: which keys belong to a workspace, and how they are deleted.
//!
//! The problem: a platform keeps in Redis the address of a workspace and a sign that it lives. While a dead workspace boots, such keys send
//! callers to an address at which nobody answers. And if one of the keys expires meanwhile, some platforms take the boot for a death and
//! begin it anew. So the keys are deleted before the restart is asked for. The module `eviction` decides when that happens, and what
//! follows when Redis is away.
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
    /// Why it is not certain that all of them are gone, in a sentence without secrets. Some may be gone.
    async fn delete(&self, keys: &[String]) -> Result<(), String>;

    /// Gets ready, so that the first deletion does not have to wait for a connection. A failure to do so is found by that deletion.
    async fn get_ready(&self) {}
}
