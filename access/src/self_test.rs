//! One known signature of each algorithm is checked at the start, so that a build that cannot says so there.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::keys::{Algorithm, Keys};
use crate::token::Refusal;

/// An algorithm does not work in this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this build does not check {} as it must: it may let wrong tokens in, or right ones not", .algorithm.name())]
pub struct SelfTestFault {
    /// Which one.
    pub algorithm: Algorithm,
}

/// Checks one known signature of each algorithm, and that it is wrong for anything else: once, at the start.
///
/// # Errors
/// With the first algorithm that does not work.
pub fn self_test() -> Result<(), SelfTestFault> {
    for vector in &VECTORS {
        let fault = SelfTestFault { algorithm: vector.algorithm };
        let mut keys = Keys::new();
        match vector.key {
            VectorKey::Jwk(jwk) => keys.add_jwk(jwk).map_err(|_| fault)?,
            VectorKey::Secret(secret) => {
                let secret = BASE64_URL_SAFE_NO_PAD.decode(secret).map_err(|_| fault)?;
                keys.add_secret(&secret, None).map_err(|_| fault)?;
            }
        }
        let signature = BASE64_URL_SAFE_NO_PAD.decode(vector.signature).map_err(|_| fault)?;
        let check =
            |message: &str, signature: &Vec<u8>| keys.check(vector.algorithm, None, message.as_bytes(), signature);
        let is_right = check(vector.message, &signature).is_ok();
        let other_message = check(&vector.message.replace('e', "f"), &signature);
        let other_signature = check(vector.message, &signature.iter().map(|byte| byte ^ 1).collect());
        if !is_right || other_message != Err(Refusal::Signature) || other_signature != Err(Refusal::Signature) {
            return Err(fault);
        }
    }
    Ok(())
}

enum VectorKey {
    Jwk(&'static str),
    Secret(&'static str),
}

struct Vector {
    algorithm: Algorithm,
    key: VectorKey,
    message: &'static str,
    signature: &'static str,
}

/// RFC 7515, A.1 to A.3, and RFC 8037, A.4.
const VECTORS: [Vector; 4] = [
    Vector {
        algorithm: Algorithm::Hs256,
        key: VectorKey::Secret(
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
        ),
        message: "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9\
                  leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        signature: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    },
    Vector {
        algorithm: Algorithm::Rs256,
        key: VectorKey::Jwk(
            r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#,
        ),
        message: "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19\
                  yb290Ijp0cnVlfQ",
        signature: "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds\
                    9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZR\
                    mB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs9\
                    8rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    },
    Vector {
        algorithm: Algorithm::Es256,
        key: VectorKey::Jwk(
            r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
        ),
        message: "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19\
                  yb290Ijp0cnVlfQ",
        signature: "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    },
    Vector {
        algorithm: Algorithm::EdDsa,
        key: VectorKey::Jwk(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#),
        message: "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        signature: "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_works_in_this_build() {
        assert_eq!(self_test(), Ok(()));
        assert!(SelfTestFault { algorithm: Algorithm::Es256 }.to_string().contains("ES256"));
    }
}
