//! The tracks of all workspaces. They lie side by side, and a map leads to them: a map of the tracks themselves would keep room for a third
//! more of them than there are, and for twice as many right after it has grown.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fast_hash::IdMap;
use crate::id::WorkspaceId;
use crate::track::Track;

/// Tracks by workspace.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    places: IdMap<WorkspaceId, u32>,
    slots: Vec<Option<Track>>,
    /// Slots without a track.
    free: Vec<u32>,
}

impl Tracks {
    pub(super) fn get(&self, id: &WorkspaceId) -> Option<&Track> {
        self.slots.get(*self.places.get(id)? as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: &WorkspaceId) -> Option<&mut Track> {
        self.slots.get_mut(*self.places.get(id)? as usize)?.as_mut()
    }

    /// The track of a workspace: the one that there is, or else this one.
    pub(super) fn get_or_insert(&mut self, id: &WorkspaceId, new: impl FnOnce() -> Track) -> &mut Track {
        let place = match self.places.get(id) {
            Some(place) => *place,
            None => self.place_for(id),
        };
        self.slots[place as usize].get_or_insert_with(new)
    }

    pub(super) fn insert(&mut self, id: &WorkspaceId, track: Track) {
        *self.get_or_insert(id, Track::default) = track;
    }

    pub(super) fn remove(&mut self, id: &WorkspaceId) -> Option<Track> {
        let place = self.places.remove(id)?;
        self.free.push(place);
        self.slots.get_mut(place as usize)?.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&WorkspaceId, &Track)> {
        self.places.iter().filter_map(|(id, place)| Some((id, self.slots.get(*place as usize)?.as_ref()?)))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Track> {
        self.slots.iter_mut().flatten()
    }

    fn place_for(&mut self, id: &WorkspaceId) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        self.places.insert(id.clone(), place);
        place
    }
}

impl Serialize for Tracks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tracks: Vec<(&WorkspaceId, &Track)> = self.iter().collect(); // some formats have to know how many there are
        serializer.collect_map(tracks)
    }
}

impl<'de> Deserialize<'de> for Tracks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut tracks = Self::default();
        for (id, track) in IdMap::<WorkspaceId, Track>::deserialize(deserializer)? {
            tracks.insert(&id, track);
        }
        Ok(tracks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/performance.md adds up what a workspace costs.
    #[test]
    fn what_is_kept_of_each_workspace_is_as_small_as_the_docs_say() {
        assert_eq!((size_of::<Track>(), size_of::<Option<Track>>()), (240, 240));
        assert_eq!(size_of::<crate::fleet::Workspace>(), 152);
    }

    #[test]
    fn a_track_is_found_under_its_id_and_its_slot_is_used_again_after_it() {
        let mut tracks = Tracks::default();
        let track = |generation| Track { generation, ..Track::default() };
        for (id, generation) in [("a", 1), ("b", 2), ("c", 3)] {
            tracks.insert(&id.into(), track(generation));
        }
        assert_eq!(tracks.remove(&"b".into()).map(|track| track.generation), Some(2));
        assert!(tracks.get(&"b".into()).is_none() && tracks.remove(&"b".into()).is_none());
        assert_eq!(tracks.get_or_insert(&"d".into(), || track(4)).generation, 4);
        assert_eq!(tracks.get_or_insert(&"d".into(), || track(5)).generation, 4, "it is there already");
        assert_eq!(tracks.slots.len(), 3);
        tracks.values_mut().for_each(|track| track.generation *= 10);
        let mut known: Vec<_> = tracks.iter().map(|(id, track)| (id.as_str(), track.generation)).collect();
        known.sort_unstable();
        assert_eq!(known, [("a", 10), ("c", 30), ("d", 40)]);
    }
}
