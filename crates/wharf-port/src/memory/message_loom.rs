//! Messages under every interleaving of two threads.

use super::message::{MessagePool, MessagePoolConfig};
use loom::thread;

fn pool(buffers: u32) -> MessagePool {
    MessagePool::new(MessagePoolConfig { buffer_size_bytes: 64, buffers }).unwrap()
}

fn bytes(message: &super::Message) -> Vec<u8> {
    message.slices().flatten().copied().collect()
}

mod loom_tests {
    use super::*;

    #[test]
    fn the_last_two_handles_are_dropped_by_two_threads() {
        loom::model(|| {
            let pool = pool(3);
            let message = pool.message_of(&[7; 130]).unwrap();
            let other = message.clone();
            let thread = thread::spawn(move || {
                assert_eq!(bytes(&other), [7; 130]);
                drop(other);
            });
            assert_eq!(bytes(&message), [7; 130]);
            drop(message);
            thread.join().unwrap();
            assert_eq!(pool.free_count(), 3);
            assert_eq!(bytes(&pool.message_of(&[8; 192]).unwrap()), [8; 192]);
        });
    }

    #[test]
    fn a_message_is_dropped_while_another_is_made_of_its_buffers() {
        loom::model(|| {
            let pool = pool(2);
            let message = pool.message_of(&[7; 100]).unwrap();
            let thread = thread::spawn(move || {
                assert_eq!(bytes(&message), [7; 100]);
                drop(message);
            });
            // Fails, or takes buffers that the other thread no longer reads.
            let made = pool.message_of(&[8; 70]);
            if let Ok(made) = &made {
                assert_eq!(bytes(made), [8; 70]);
            }
            thread.join().unwrap();
            assert_eq!(pool.free_count(), if made.is_ok() { 0 } else { 2 });
            drop(made);
            assert_eq!(pool.free_count(), 2);
        });
    }

    #[test]
    fn a_pool_that_goes_first_is_freed_by_the_last_of_two_handles() {
        loom::model(|| {
            let pool = pool(1);
            let message = pool.message_of(&[7; 10]).unwrap();
            drop(pool);
            let other = message.clone();
            let thread = thread::spawn(move || drop(other));
            assert_eq!(bytes(&message), [7; 10]);
            drop(message);
            thread.join().unwrap();
        });
    }

    #[test]
    fn two_threads_build_at_once_and_one_of_them_may_have_to_give_up() {
        fn build(pool: &MessagePool, byte: u8) -> Option<super::super::Message> {
            let mut builder = pool.builder().ok()?;
            builder.write(&[byte; 40]).unwrap();
            builder.write(&[byte; 40]).ok()?;
            Some(builder.finish())
        }
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let pool = pool(3);
            let other = pool.clone();
            let thread = thread::spawn(move || {
                let built = build(&other, 7);
                built.inspect(|message| assert_eq!(bytes(message), [7; 80]))
            });
            let built = build(&pool, 8);
            if let Some(message) = &built {
                assert_eq!(bytes(message), [8; 80]);
            }
            let elsewhere = thread.join().unwrap();
            // This thread reads the other's message, and releases its buffers.
            if let Some(message) = &elsewhere {
                assert_eq!(bytes(message), [7; 80]);
            }
            assert!(built.is_some() || elsewhere.is_some());
            drop((built, elsewhere));
            assert_eq!(pool.free_count(), 3);
            assert_eq!(bytes(&pool.message_of(&[9; 192]).unwrap()), [9; 192]);
        });
    }
}
