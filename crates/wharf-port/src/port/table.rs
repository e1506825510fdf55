//! The port's table of sockets: slots that are reused, each time under a new generation.

use super::operation::{Key, Socket};
use crate::memory::error::MemoryError;
use crate::memory::table::try_table;

/// A fixed number of slots for sockets. `S` is a back end's state of one socket.
#[derive(Debug)]
pub(crate) struct SocketTable<S> {
    slots: Box<[Slot<S>]>,
    /// Indexes of the free slots; the one freed last is reused first.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<S> {
    generation: u32,
    entry: Option<Entry<S>>,
}

/// An associated socket.
#[derive(Debug)]
pub(crate) struct Entry<S> {
    pub(crate) key: Key,
    pub(crate) state: S,
}

impl<S> SocketTable<S> {
    pub(crate) fn new(capacity: u32) -> Result<Self, MemoryError> {
        let slots = (0..capacity).map(|_| Slot { generation: 0, entry: None });
        Ok(Self {
            slots: try_table("the table of sockets", slots)?,
            free: try_table("the free slots of sockets", (0..capacity).rev())?.into_vec(),
        })
    }

    /// Leaks all entries, which the kernel still uses.
    #[cfg(target_os = "linux")]
    pub(crate) fn leak(&mut self) {
        Box::leak(std::mem::take(&mut self.slots));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Puts a socket into a free slot; `None` if there is none.
    pub(crate) fn insert(&mut self, key: Key, state: S) -> Option<Socket> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.entry = Some(Entry { key, state });
        Some(Socket { index, generation: slot.generation })
    }

    /// The socket's entry; `None` if the handle is stale.
    pub(crate) fn get_mut(&mut self, socket: Socket) -> Option<&mut Entry<S>> {
        let slot = self.slots.get_mut(socket.index as usize)?;
        if slot.generation == socket.generation { slot.entry.as_mut() } else { None }
    }

    /// Removes the socket, which frees its slot; `None` if the handle is stale.
    pub(crate) fn remove(&mut self, socket: Socket) -> Option<Entry<S>> {
        let slot = self.slots.get_mut(socket.index as usize)?;
        if slot.generation != socket.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        self.free.push(socket.index);
        Some(entry)
    }

    /// The handles of all sockets in the table.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = Socket> {
        (0_u32..).zip(&self.slots).filter_map(|(index, slot)| {
            slot.entry.as_ref().map(|_| Socket { index, generation: slot.generation })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_never_reaches_the_next_owner_of_its_slot() {
        let mut table = SocketTable::new(1).unwrap();
        let first = table.insert(Key(1), 'a').unwrap();
        assert!(table.is_full());
        assert!(table.insert(Key(2), 'b').is_none());
        assert_eq!(table.remove(first).unwrap().key, Key(1));
        let second = table.insert(Key(2), 'b').unwrap();
        assert_eq!(first.index, second.index);
        assert!(table.get_mut(first).is_none());
        assert!(table.remove(first).is_none());
        assert_eq!(table.get_mut(second).unwrap().state, 'b');
        assert_eq!(table.sockets().collect::<Vec<_>>(), [second]);
    }
}
