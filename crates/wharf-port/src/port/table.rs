//! The port's table of sockets: places that are used again, each time with a new generation.

use super::operation::{Key, Socket};

/// Sockets by place. `S` is what a back end keeps for one.
#[derive(Debug)]
pub(crate) struct SocketTable<S> {
    places: Vec<Place<S>>,
    /// Free places, the one freed last on top.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<S> {
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
    pub(crate) fn new(capacity: u32) -> Self {
        let places = (0..capacity).map(|_| Place { generation: 0, entry: None }).collect();
        Self { places, free: (0..capacity).rev().collect() }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Puts a socket on a free place; `None` if there is none.
    pub(crate) fn insert(&mut self, key: Key, state: S) -> Option<Socket> {
        let index = self.free.pop()?;
        let place = &mut self.places[index as usize];
        place.generation = place.generation.wrapping_add(1);
        place.entry = Some(Entry { key, state });
        Some(Socket { index, generation: place.generation })
    }

    /// The socket, unless the handle is stale.
    pub(crate) fn get_mut(&mut self, socket: Socket) -> Option<&mut Entry<S>> {
        let place = self.places.get_mut(socket.index as usize)?;
        if place.generation == socket.generation { place.entry.as_mut() } else { None }
    }

    /// Takes the socket off its place.
    pub(crate) fn remove(&mut self, socket: Socket) -> Option<Entry<S>> {
        let place = self.places.get_mut(socket.index as usize)?;
        if place.generation != socket.generation {
            return None;
        }
        let entry = place.entry.take()?;
        self.free.push(socket.index);
        Some(entry)
    }

    /// Every socket that is in the table.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = Socket> {
        (0_u32..).zip(&self.places).filter_map(|(index, place)| {
            place.entry.as_ref().map(|_| Socket { index, generation: place.generation })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_never_reaches_the_next_owner_of_its_place() {
        let mut table = SocketTable::new(1);
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
