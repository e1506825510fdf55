//! The table of the entries of which the chains of one pool consist.

use super::error::MemoryError;
use super::table::try_table;
use std::cell::{Cell, UnsafeCell};

/// The content of an entry; the default is that of a free entry.
pub(super) trait Content: Default {
    /// Whether it counts against the number of messages.
    fn is_message(&self) -> bool;
}

/// A fixed number of entries, linked into chains, parcels or the free list.
///
/// Another thread may use the entries of a parcel, by [`content`](Self::content),
/// [`next`](Self::next) and [`set_next`](Self::set_next): these access the named entry, and none of
/// the table's counts.
pub(super) struct EntryTable<E> {
    nodes: Box<[Node<E>]>,
    first_free: Cell<u32>,
    free_count: Cell<u32>,
    /// Entries that further messages may take; so that messages leave one entry for each buffer.
    messages_left: Cell<u32>,
}

/// One entry and the index of the next one.
pub(super) struct Node<E> {
    content: UnsafeCell<E>,
    next: Cell<u32>,
}

impl<E: Content> EntryTable<E> {
    /// A table with entries for `buffers` buffers and `messages` messages.
    pub(super) fn new(buffers: u32, messages: u32) -> Result<Self, MemoryError> {
        let capacity = buffers.saturating_add(messages);
        let node =
            |index| Node { content: UnsafeCell::new(E::default()), next: Cell::new(index + 1) };
        Ok(Self {
            nodes: try_table("the entries of chains", (0..capacity).map(node))?,
            first_free: Cell::new(0),
            free_count: Cell::new(capacity),
            messages_left: Cell::new(messages),
        })
    }

    /// Free entries.
    #[inline]
    pub(super) fn free_count(&self) -> u32 {
        self.free_count.get()
    }

    /// Entries that further messages can take.
    pub(super) fn messages_left(&self) -> u32 {
        self.messages_left.get()
    }

    /// Whether no chain and no parcel has an entry.
    pub(super) fn is_unused(&self) -> bool {
        self.free_count.get() as usize == self.nodes.len()
    }

    /// Puts `entry` into a free entry; returns it as an error if there is none.
    #[inline]
    pub(super) fn insert(&self, entry: E) -> Result<u32, E> {
        if self.free_count.get() == 0 {
            return Err(entry);
        }
        if entry.is_message() {
            let Some(left) = self.messages_left.get().checked_sub(1) else { return Err(entry) };
            self.messages_left.set(left);
        }
        let index = self.first_free.get();
        let node = &self.nodes[index as usize];
        self.first_free.set(node.next.get());
        self.free_count.set(self.free_count.get() - 1);
        // SAFETY: the entry was on the free list, so no chain or parcel has it and no reference to
        // its content exists (INV-CHAIN-1); the free list is used on one thread.
        unsafe { node.content.get().write(entry) };
        Ok(index)
    }

    /// Removes the content of an entry, and releases the entry.
    ///
    /// # Safety
    ///
    /// The caller's chain has the entry (INV-CHAIN-1), no reference to its content exists, and the
    /// chain does not use the index again.
    #[inline]
    pub(super) unsafe fn remove(&self, index: u32) -> E {
        let node = &self.nodes[index as usize];
        // SAFETY: by the caller's promise no reference to the content exists.
        let entry = unsafe { node.content.get().replace(E::default()) };
        node.next.set(self.first_free.get());
        self.first_free.set(index);
        self.free_count.set(self.free_count.get() + 1);
        if entry.is_message() {
            self.messages_left.set(self.messages_left.get() + 1);
        }
        entry
    }

    /// A pointer to the content of an entry. A caller that makes a reference of it relies on
    /// INV-CHAIN-1.
    #[inline]
    pub(super) fn content(&self, index: u32) -> *mut E {
        self.nodes[index as usize].content.get()
    }

    /// The next entry of the chain; unspecified for the chain's last.
    #[inline]
    pub(super) fn next(&self, index: u32) -> u32 {
        self.nodes[index as usize].next.get()
    }

    #[inline]
    pub(super) fn set_next(&self, index: u32, next: u32) {
        self.nodes[index as usize].next.set(next);
    }
}
