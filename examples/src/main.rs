//! `sidemesh-shop user|product|order`: one service of the demo shop.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sidemesh_examples::order::Order;
use sidemesh_examples::product::Product;
use sidemesh_examples::serve::serve;
use sidemesh_examples::user::User;

/// One service of the demo shop.
#[derive(Parser)]
#[command(name = "sidemesh-shop", version)]
struct Args {
    /// Where to listen, `address:port`.
    #[arg(long, global = true, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(subcommand)]
    service: Which,
}

#[derive(Subcommand)]
enum Which {
    /// Who orders: `GET /users/NAME`.
    User,
    /// What is ordered: `GET /products/NAME`, `POST /fail?on|off`.
    Product {
        #[arg(long, default_value = "v1")]
        version: String,
        /// Printed in answers, to tell instances apart.
        #[arg(long, default_value = "1")]
        instance: String,
    },
    /// Both together: `GET /orders/USER/PRODUCT`.
    Order {
        /// Where to reach `user`: its sidecar's outbound address.
        #[arg(long, default_value = "127.0.0.1:8081")]
        user: String,
        /// Where to reach `product`.
        #[arg(long, default_value = "127.0.0.1:8082")]
        product: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.service {
        Which::User => serve(args.listen, "user", User).await,
        Which::Product { version, instance } => serve(args.listen, "product", Product::new(version, instance)).await,
        Which::Order { user, product } => {
            let order =
                Order { user: (user, "user.default".to_owned()), product: (product, "product.default".to_owned()) };
            serve(args.listen, "order", order).await
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidemesh-shop: {error}");
            ExitCode::FAILURE
        }
    }
}
