//! gRPC servers of a test, on a thread of their own, so that the test itself may block.

/// Runs the future until the test run ends.
pub fn spawn<F: Future<Output: Send> + Send + 'static>(future: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    std::thread::spawn(move || {
        let _ended = runtime.block_on(future);
    });
}
