//! The check that every back end makes before it takes an operation.

use super::operation::{CompletionMode, Operation, SubmitErrorKind};

/// The state of a socket that decides whether an operation can be submitted.
///
/// An operation is in flight until its last completion has been dequeued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five independent facts, named where they are set"
)]
pub(crate) struct SocketUse {
    pub(crate) is_listener: bool,
    /// A close was submitted.
    pub(crate) is_closing: bool,
    pub(crate) accept_in_flight: bool,
    pub(crate) receive_in_flight: bool,
    pub(crate) send_in_flight: bool,
}

/// Why the operation cannot be submitted: the first reason in the order of [`SubmitErrorKind`].
/// `socket` is `None` if its handle is stale.
#[inline]
pub(crate) fn check_submit(
    socket: Option<SocketUse>,
    operation: &Operation,
) -> Option<SubmitErrorKind> {
    let Some(socket) = socket else { return Some(SubmitErrorKind::StaleSocket) };
    if socket.is_closing {
        return Some(SubmitErrorKind::Closing);
    }
    let is_link = !socket.is_listener;
    let (fits, in_flight) = match operation {
        Operation::Accept(mode) => {
            (socket.is_listener && *mode != CompletionMode::IfReady, socket.accept_in_flight)
        }
        Operation::Receive { .. } => (is_link, socket.receive_in_flight),
        Operation::Send(chain) => (is_link && !chain.is_empty(), socket.send_in_flight),
        Operation::Close => (true, false),
    };
    if !fits {
        Some(SubmitErrorKind::WrongOperation)
    } else if in_flight {
        Some(SubmitErrorKind::AlreadyInFlight)
    } else {
        None
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::memory::chain::Chain;

    #[expect(clippy::needless_pass_by_value, reason = "the operations are made where it is called")]
    fn kind(socket: SocketUse, operation: Operation) -> Option<SubmitErrorKind> {
        check_submit(Some(socket), &operation)
    }

    #[test]
    fn of_several_reasons_the_first_is_given() {
        let all = SocketUse {
            is_listener: true,
            is_closing: true,
            accept_in_flight: true,
            receive_in_flight: true,
            send_in_flight: true,
        };
        let receive = || Operation::receive(CompletionMode::Multishot);
        assert_eq!(check_submit(None, &receive()), Some(SubmitErrorKind::StaleSocket));
        assert_eq!(kind(all, receive()), Some(SubmitErrorKind::Closing));
        let open = SocketUse { is_closing: false, ..all };
        assert_eq!(kind(open, receive()), Some(SubmitErrorKind::WrongOperation));
        assert_eq!(
            kind(open, Operation::Accept(CompletionMode::Oneshot)),
            Some(SubmitErrorKind::AlreadyInFlight)
        );
        assert_eq!(kind(open, Operation::Close), None);
    }

    #[test]
    fn each_kind_fits_one_role_and_is_refused_while_its_own_kind_is_in_flight() {
        let (link, listener) =
            (SocketUse::default(), SocketUse { is_listener: true, ..SocketUse::default() });
        let not_here = Some(SubmitErrorKind::WrongOperation);
        assert_eq!(kind(link, Operation::Accept(CompletionMode::Oneshot)), not_here);
        assert_eq!(kind(listener, Operation::Accept(CompletionMode::IfReady)), not_here);
        assert_eq!(kind(listener, Operation::Accept(CompletionMode::Multishot)), None);
        assert_eq!(kind(link, Operation::Send(Chain::new())), not_here);
        let busy = SocketUse { send_in_flight: true, accept_in_flight: true, ..link };
        assert_eq!(kind(busy, Operation::receive(CompletionMode::IfReady)), None);
        let busy = SocketUse { receive_in_flight: true, ..link };
        assert_eq!(
            kind(busy, Operation::Receive { mode: CompletionMode::Oneshot, bytes_max: 0 }),
            Some(SubmitErrorKind::AlreadyInFlight)
        );
    }
}
