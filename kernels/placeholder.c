/* placeholder: replaced by the folder's first file */ extern int lorad_kernels_placeholder; int lorad_kernels_placeholder;
