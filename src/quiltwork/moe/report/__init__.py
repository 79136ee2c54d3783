"""What a mixture-of-experts model spends on which token, to be seen: figures, pictures, one page that holds them."""
