/* placeholder: replaced by the folder's first file */ extern int lorad_comm_placeholder; int lorad_comm_placeholder;
