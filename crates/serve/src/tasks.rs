use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

/// Drives tasks to their end, whatever becomes of their callers.
pub type Spawn = Rc<dyn Fn(LocalBoxFuture<'static, ()>)>;

thread_local! {
    static SPAWN: RefCell<Option<Spawn>> = const { RefCell::new(None) };
}

/// From now on work in the background of this thread is given to `spawn`, not to the compio runtime. For
/// those who drive everything themselves, as simulations do; `None` ends that.
pub fn spawn_by(spawn: Option<Spawn>) {
    SPAWN.set(spawn);
}

/// Begins a task that is driven to its end whatever becomes of the caller.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    let given = SPAWN.with_borrow(Clone::clone);
    match given {
        Some(spawn) => spawn(Box::pin(task)),
        None => compio::runtime::spawn(task).detach(),
    }
}
