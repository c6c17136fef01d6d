"""The part of <gnutls/gnutls.h> (3.6.6) that we call, for cffi's out-of-line ABI mode; no compiler is needed.

``python -m mandos_tx.wire.gnutls_abi_source`` writes ``gnutls_abi.py`` anew; a test sees to it that the two agree.
"""

from __future__ import annotations

from pathlib import Path

CDEF = """
typedef struct gnutls_session_int *gnutls_session_t;
typedef struct gnutls_priority_st *gnutls_priority_t;
typedef struct gnutls_certificate_credentials_st *gnutls_certificate_credentials_t;
typedef struct { unsigned char *data; unsigned int size; } gnutls_datum_t;

const char *gnutls_check_version(const char *req_version);
const char *gnutls_strerror(int error);
const char *gnutls_alert_get_name(int alert);
int gnutls_error_is_fatal(int error);

int gnutls_priority_init(gnutls_priority_t *priority_cache, const char *priorities, const char **err_pos);
void gnutls_priority_deinit(gnutls_priority_t priority_cache);
int gnutls_certificate_allocate_credentials(gnutls_certificate_credentials_t *res);
void gnutls_certificate_free_credentials(gnutls_certificate_credentials_t sc);
int gnutls_certificate_set_rawpk_key_mem(gnutls_certificate_credentials_t cred,
    const gnutls_datum_t *spki, const gnutls_datum_t *pkey, int format, const char *pass,
    unsigned int key_usage, const char **names, unsigned int names_length, unsigned int flags);

int gnutls_init(gnutls_session_t *session, unsigned int flags);
void gnutls_deinit(gnutls_session_t session);
int gnutls_priority_set(gnutls_session_t session, gnutls_priority_t priority);
int gnutls_credentials_set(gnutls_session_t session, int type, void *cred);
void gnutls_transport_set_int2(gnutls_session_t session, int r, int s);

void gnutls_handshake_set_max_packet_length(gnutls_session_t session, size_t max);
int gnutls_handshake(gnutls_session_t session);
ssize_t gnutls_record_send(gnutls_session_t session, const void *data, size_t data_size);
ssize_t gnutls_record_recv(gnutls_session_t session, void *data, size_t data_size);
int gnutls_bye(gnutls_session_t session, int how);
int gnutls_alert_get(gnutls_session_t session);
int gnutls_alert_send_appropriate(gnutls_session_t session, int err);

int gnutls_certificate_type_get2(gnutls_session_t session, int target);
const gnutls_datum_t *gnutls_certificate_get_peers(gnutls_session_t session, unsigned int *list_size);
"""

TARGET = Path(__file__).with_name("gnutls_abi.py")


def generate(target: Path) -> None:
    import cffi

    builder = cffi.FFI()
    builder.set_source("mandos_tx.wire.gnutls_abi", None)
    builder.cdef(CDEF)
    builder.emit_python_code(str(target))


if __name__ == "__main__":
    generate(TARGET)
