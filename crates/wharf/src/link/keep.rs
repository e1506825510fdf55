//! Unread input that stays with a link, and the buffers that hold it.
//!
//! Large buffers are for receives. Unread bytes in a large buffer are copied into buffers that the link
//! may borrow; if it can borrow none, they stay in the large buffer, and further receives use small
//! buffers when large ones run out.

use crate::link::core::ShardState;
use crate::link::unread::Unread;
use wharf_port::memory::{Buffer, Chain, Owner};

impl ShardState {
    /// Appends a received buffer to the unread input. The last buffer is filled first, so that a
    /// message in small pieces takes at most one buffer more than it needs.
    pub(crate) fn keep(&mut self, index: u32, buffer: Buffer) {
        if buffer.is_large(&self.pool) && self.copy_input(index, &buffer) {
            return;
        }
        let pushed = self.slots[index].input.unread.push_packed(&self.pool, buffer);
        assert!(pushed.is_ok(), "there is an entry for each buffer of the pool");
    }

    /// Stores what a callback has left unread.
    pub(crate) fn keep_all(&mut self, index: u32, unread: Unread) {
        let chain = unread.into_chain(&self.pool);
        // Input that was kept before this call was copied then, if possible.
        let is_fresh = chain.entry_count() == 1 && chain.ends_in_large(&self.pool);
        if is_fresh && self.copy_input(index, chain.front()) {
            return;
        }
        self.slots[index].input.unread = chain;
    }

    /// Appends a copy of `bytes` to the unread input, if all buffers for it are guaranteed or can be
    /// lent; returns whether it did.
    fn copy_input(&mut self, index: u32, bytes: &[u8]) -> bool {
        let lendable = self.shares.lendable_unasked(self.reserved_beside(index));
        let input: &mut Chain = &mut self.slots[index].input.unread;
        let guaranteed = 1_u32.saturating_sub(input.buffers());
        input.append(&self.pool, bytes, Owner::Application, guaranteed + lendable).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Settings;
    use crate::link::core::tests::core_with;
    use crate::shares::Held;

    /// A shard of one link, with small buffers of 64 bytes and large ones of 1,024; and input received
    /// in a large one.
    fn received() -> (ShardState, Buffer, Vec<u8>) {
        let settings = Settings { links: 1, buffers: Some(400), ..core_settings() };
        let core = core_with(settings);
        let mut buffer = core.pool.acquire_large(Owner::Application).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        buffer.append(&bytes);
        (core, buffer, bytes)
    }

    fn core_settings() -> Settings {
        Settings { input_bytes: 1_024, send_queue_bytes: 2_048, ..Settings::default() }
    }

    fn unread(core: &ShardState) -> Vec<u8> {
        core.slots[0].input.unread.slices().flatten().copied().collect()
    }

    fn large_out(core: &ShardState) -> u32 {
        let large = core.pool.large().unwrap();
        large.capacity() - large.free_count()
    }

    #[test]
    fn what_stays_unread_is_copied_out_of_a_large_buffer() {
        let (mut core, buffer, bytes) = received();
        core.keep(0, buffer);
        assert_eq!((unread(&core), large_out(&core)), (bytes, 0));
        assert_eq!(core.slots[0].input.unread.buffers(), 16);
    }

    #[test]
    fn what_a_callback_leaves_is_copied_out_of_a_large_buffer() {
        for taken in [0, 1, 990] {
            let (mut core, buffer, bytes) = received();
            let mut rest = Unread::fresh(buffer, 0);
            rest.consume(taken);
            core.keep_all(0, rest);
            assert_eq!((&unread(&core), large_out(&core)), (&bytes[taken..].to_vec(), 0));
        }
    }

    #[test]
    fn what_one_buffer_holds_needs_no_loan() {
        let (mut core, buffer, bytes) = received();
        let none = Held::default();
        core.shares.settle(none, Held { input: core.shares.lendable(0) + 1, output: 0 });
        let mut rest = Unread::fresh(buffer, 0);
        rest.consume(990);
        core.keep_all(0, rest);
        assert_eq!((unread(&core), large_out(&core)), (bytes[990..].to_vec(), 0));
    }

    #[test]
    fn what_is_forwarded_whole_is_copied_while_large_buffers_are_scarce() {
        for scarce in [false, true] {
            let (mut core, buffer, bytes) = received();
            let mut held = Vec::new();
            while scarce && let Some(other) = core.pool.acquire_large(Owner::Application) {
                held.push(other);
            }
            assert_eq!(core.forward(0, &mut Unread::fresh(buffer, 0), usize::MAX), 1_000);
            let queue = &core.slots[0].output.queue;
            let queued: Vec<u8> = queue.slices().flatten().copied().collect();
            assert_eq!((queued, queue.ends_in_large(&core.pool)), (bytes, !scarce));
        }
    }

    #[test]
    fn while_nothing_can_be_lent_the_bytes_stay_where_they_are() {
        for by_callback in [false, true] {
            let (mut core, buffer, bytes) = received();
            // All that can be lent, to another.
            let most = core.shares.lendable(0);
            let (none, all) = (Held::default(), Held { input: most + 1, output: 0 });
            core.shares.settle(none, all);
            if by_callback {
                core.keep_all(0, Unread::fresh(buffer, 0));
            } else {
                core.keep(0, buffer);
            }
            assert_eq!((unread(&core), large_out(&core)), (bytes, 1));
        }
    }
}
